// docs/observability.md lists every kind of log line, and only these.
import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'

const ROOT = join(import.meta.dirname, '../..')
const textOf = (file: string) => readFileSync(join(ROOT, file), 'utf8')

/** The last argument of a call that logs, whatever name the logger has there. */
const LOGGED =
  /\b(?:log|warn|error|report|info)(?:\??\.\w+)?\((?:[^()]|\([^()]*\))*?'([a-z_]+\.[a-z_]+)',?\s*\)/g

function namesInSource(): string[] {
  const listed = execFileSync(
    'git',
    ['ls-files', '-co', '--exclude-standard', 'src', 'routes', 'workers'],
    { cwd: ROOT },
  )
  const files = listed
    .toString()
    .split('\n')
    .filter((file) => file.endsWith('.ts'))
  const names = files.flatMap((file) =>
    [...textOf(file).matchAll(LOGGED)].map(([, name]) => name as string),
  )
  return [...new Set(names)].sort()
}

function namesInDocs(): string[] {
  const [, section = ''] = textOf('docs/observability.md').split(/^## Logs$/m)
  const cells = [...section.matchAll(/^\| (`[^|]*) \|/gm)].map(([, cell]) => cell as string)
  return cells
    .flatMap((cell) => [...cell.matchAll(/`([^`]+)`/g)].map(([, name]) => name as string))
    .sort()
}

test('every kind of log line is documented, and every documented one exists', () => {
  const names = namesInSource()
  expect(names.length).toBeGreaterThan(40)
  expect(namesInDocs()).toEqual(names)
})
