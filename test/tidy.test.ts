// The house rules that can be counted: sizes, names, and imports between rooms.

import { execFileSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { basename, dirname, join, matchesGlob, normalize } from 'node:path'
import { describe, expect, it } from 'vitest'
import longRun from '../vitest.long.config.ts'

const MAX_FILE_LINES = 600
const MAX_FUNCTION_LINES = 70
const MAX_COLUMNS = 100

const ROOT = join(import.meta.dirname, '..')
const files = execFileSync(
  'git',
  ['ls-files', '-co', '--exclude-standard', '*.ts', 'dashboard/*.js'],
  { cwd: ROOT },
)
  .toString()
  .split('\n')
  .filter((file) => file !== '')
const product = files.filter((file) => /^(src|routes|workers|cli|openapi|dashboard)\//.test(file))

const linesOf = (file: string) => readFileSync(join(ROOT, file), 'utf8').trimEnd().split('\n')

describe.each(files)('%s', (file) => {
  const lines = linesOf(file)

  it('is short, narrow, and says in its first line what it is for', () => {
    expect(lines.length).toBeLessThanOrEqual(MAX_FILE_LINES)
    expect(lines.filter((line) => line.length > MAX_COLUMNS && !holdsLongText(line))).toEqual([])
    if (product.includes(file))
      expect(lines.find((line) => !line.startsWith('#!'))).toMatch(/^\/\/ /)
  })

  it('has no long function', () => {
    const tooLong = functionLengths(lines).filter(({ length }) => length > MAX_FUNCTION_LINES)
    // describe() in a test file is a table of contents, not a function that a reader must follow.
    if (!file.startsWith('test/')) expect(tooLong).toEqual([])
  })

  it('has a name that says what is in it', () => {
    expect(basename(file)).toMatch(/^[a-z0-9]+([.-][a-z0-9]+)*\.(ts|js)$/)
    expect(basename(file)).not.toMatch(
      /\b(utils?|helpers?|common|types|manager|services|handler)\b/,
    )
  })
})

it('what every run leaves out is in npm run test:long', () => {
  const tests = files.filter((file) => file.endsWith('.test.ts'))
  const doMore = tests.filter((file) => /(RUN|UNLESS)_LONG/.test(linesOf(file).join('\n')))
  expect(doMore.length).toBeGreaterThan(10)
  const { include } = longRun.test as { include: string[] }
  const isPlayed = (file: string) => include.some((pattern) => matchesGlob(file, pattern))
  expect(doMore.filter((file) => !isPlayed(file))).toEqual([])
})

/**
 * The table of rooms in docs/ARCHITECTURE.md: what each room may import in addition to node: and
 * itself. An entry is a room, a file, or a package.
 */
const MAY_IMPORT: Record<string, string[]> = {
  'src/job': [],
  'src/endpoint': ['src/job'],
  'src/webhook': ['src/job', 'src/endpoint', 'undici', 'ipaddr.js'],
  'src/schedule': ['src/job', 'croner'],
  'src/wire': [
    'src/job',
    'src/endpoint',
    'src/schedule',
    'src/store',
    'src/errors.ts',
    'src/plain-text.ts',
    'zod',
  ],
  'src/http': ['src/store', 'src/errors.ts', 'src/config.ts', 'fastify', 'pino'],
  'src/client': [],
  'src/store': ['src/job', 'src/endpoint'],
  'src/upkeep': ['src', 'src/job', 'src/endpoint', 'src/schedule', 'src/store', 'src/wire', 'pino'],
  'src/store/sqlite': ['src/job', 'src/endpoint', 'src/store'],
  'src/store/mongo': ['src/job', 'src/endpoint', 'src/store', 'mongodb'],
  'src/stats': ['src/batch-size.ts', 'src/loop.ts', 'src/job', 'src/store', 'pino', 'prom-client'],
  src: [
    'src/job',
    'src/endpoint',
    'src/store',
    'pino',
    'pino-pretty',
    'close-with-grace',
    '@opentelemetry/api',
  ],
  routes: ['src', 'src/*', 'fastify', '@fastify/swagger', 'zod', 'pino'],
  workers: ['src', 'src/*', 'pino'],
  cli: ['src', 'src/*', 'routes', 'workers', 'cli/agenda', 'yaml'],
  'cli/agenda': ['src', 'src/*', 'cli', 'mongodb'],
  openapi: ['src', 'src/*', 'routes', 'pino'],
  dashboard: ['preact', 'preact/hooks', 'htm/preact'],
}
const ROOMS_BEHIND_THE_PORT = ['src/store/sqlite', 'src/store/mongo']
const NODE_SQLITE_ROOM = 'src/store/sqlite'

const roomOf = (file: string) =>
  Object.keys(MAY_IMPORT)
    .filter((room) => dirname(file) === room || dirname(file).startsWith(`${room}/`))
    .sort((a, b) => b.length - a.length)[0] as string

describe('rooms', () => {
  it.each(product)('%s imports only what its room may', (file) => {
    const room = roomOf(file)
    const wrong = importsOf(file).filter((target) => !isAllowed(room, target, file))
    expect(wrong).toEqual([])
  })
})

function importsOf(file: string): string[] {
  const text = readFileSync(join(ROOT, file), 'utf8')
  return [...text.matchAll(/(?:from|import\()\s*'([^']+)'/g)].map((match) => match[1] as string)
}

function isAllowed(room: string, target: string, file: string): boolean {
  if (target === 'node:sqlite') return room === NODE_SQLITE_ROOM
  if (target.startsWith('node:')) return true
  const may = MAY_IMPORT[room] as string[]
  if (!target.startsWith('.')) return may.includes(target)
  const targetFile = normalize(join(dirname(file), target))
  const targetRoom = roomOf(targetFile)
  if (targetRoom === room || may.includes(targetFile)) return true
  if (ROOMS_BEHIND_THE_PORT.includes(targetRoom)) return file === 'src/store/open-store.ts'
  return may.includes(targetRoom) || (may.includes('src/*') && targetRoom.startsWith('src/'))
}

/** Whether a line has a sentence or a pattern that would be harder to read if it were broken. */
function holdsLongText(line: string): boolean {
  return /['"`/].{50,}['"`/]/.test(line) || /^\s*['"`].*['"`],?$/.test(line)
}

/**
 * The lengths of functions. The formatter ends each with a closing brace at the indent of its first
 * line.
 */
function functionLengths(lines: string[]): { at: number; length: number }[] {
  const opens =
    /^(\s*)(?!.*\b(?:if|for|while|switch)\b \().*(?:\bfunction\b.*|=> |\)(?:: [^=]+)? )\{$/
  return lines.flatMap((line, i) => {
    const match = opens.exec(line)
    if (match === null) return []
    const end = lines.findIndex((other, j) => j > i && other.startsWith(`${match[1]}}`))
    return [{ at: i + 1, length: end - i + 1 }]
  })
}
