// How the statements of the SQLite store get their values: by name, except those that run for each
// job or for each endpoint of a claim, where names cost too much (docs/decisions/0023).
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { inOrder } from '../../src/store/sqlite/connection.ts'

const FOLDER = join(import.meta.dirname, '../../src/store/sqlite')
const FILES = readdirSync(FOLDER)

/**
 * The statements of each file with values by position. Named values would make these 1.2 to 2.2
 * times as expensive.
 */
const BY_POSITION: Record<string, string[]> = {
  'admission.ts': ['ELIGIBLE'],
  'claim.ts': [
    ...['NEXT_PRIORITY', 'CLAIMABLE', 'TURNS', 'PAYLOAD'],
    ...['CLAIM', 'CLAIM_EXPIRING', 'CLAIM_MEMBER'],
  ],
  'fairness-keys.ts': ['KEY_STATE'],
  'job-row.ts': ['INSERT_PLAIN', 'INSERT_MEMBER', 'INSERT_KEYED', 'INSERT_JOB', 'INSERT_PAYLOAD'],
  'leases.ts': ['RENEW'],
  'settle.ts': [
    ...['SETTLE await', 'SETTLE succeed', 'SETTLE reschedule'],
    ...['SETTLE postpone', 'SETTLE bury'],
    ...['SUCCEED_IF_PLAIN', 'SUCCEED_IF_MEMBER'],
  ],
  'turns.ts': ['LANE', 'LAST_IN_LINE'],
}

test('only the listed statements take their values by position', async () => {
  const found: Record<string, string[]> = {}
  for (const file of FILES) {
    const module: Record<string, unknown> = await import(join(FOLDER, file))
    const names = Object.entries(module)
      .flatMap(([name, value]) => textsOf(name, value))
      .filter(([, sql]) => sql.includes('?'))
      .map(([name]) => name)
    if (names.length > 0) found[file] = names
  }
  const sorted = (lists: Record<string, string[]>) =>
    Object.entries(lists).map(([file, names]) => [file, [...names].sort()])
  expect(sorted(found)).toEqual(sorted(BY_POSITION))
})

test.each(FILES)(
  '%s has no question mark as a parameter, also in statements of its own',
  (file) => {
    const code = readFileSync(join(FOLDER, file), 'utf8').replaceAll(/^\s*(\/\/|\/?\*).*$/gm, '')
    const literals = code.match(/`(?:[^`\\]|\\.)*`|'(?:[^'\\\n]|\\.)*'/g) ?? []
    const parameters = literals
      .map((literal) => literal.replaceAll(/\$\{[^{}]*\}/g, '…'))
      .filter((literal) => /\b(select|insert|update|delete|where|limit|values)\b/.test(literal))
      .filter((literal) => /\?(\d|[\s,)`']|$)/.test(literal))
    expect(parameters).toEqual([])
  },
)

test('an order names each parameter of its statement, and no others', () => {
  const sql = 'select $b, $a, $b'
  expect(inOrder<[number, number]>(['a', 'b'], sql)).toBe('select ?2, ?1, ?2')
  expect(inOrder<[number, number]>(['b', 'a'], 'select $b, $a')).toBe('select ?, ?')
  expect(() => inOrder<[number]>(['a'], sql)).toThrow('$b has no place in the order')
  expect(() => inOrder<[number, number, number]>(['a', 'b', 'c'], sql)).toThrow(
    'c are not parameters',
  )
})

function textsOf(name: string, value: unknown): [string, string][] {
  if (typeof value === 'string') return [[name, value]]
  if (typeof value !== 'object' || value === null) return []
  return Object.entries(value).flatMap(([part, text]) => textsOf(`${name} ${part}`, text))
}
