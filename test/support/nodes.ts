// Every Node.js that is installed on this machine: some programs must run on several, or refuse to.
import { execFileSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { delimiter, join } from 'node:path'

export interface InstalledNode {
  /** For example `v24.1.0`. */
  version: string
  major: number
  path: string
}

/** The versions on the PATH and the one that runs this test, each once. */
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
