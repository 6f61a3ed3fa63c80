// Every Node.js that is installed here: some programs must run, or refuse to run, on several.
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'

export interface InstalledNode {
  /** Like `v24.1.0`. */
  version: string
  major: number
  path: string
}

/** Those on the PATH and the one that runs this, each version once. */
export function installedNodes(): InstalledNode[] {
  const paths = (process.env.PATH ?? '')
    .split(delimiter)
    .map((folder) => join(folder, 'node'))
    .filter((path) => existsSync(path))
    .concat(process.execPath)
  const byVersion = new Map(
    paths.map((path) => [execFileSync(path, ['--version']).toString().trim(), path] as const),
  )
  return [...byVersion].map(([version, path]) => ({
    version,
    major: Number.parseInt(version.slice(1), 10),
    path,
  }))
}
