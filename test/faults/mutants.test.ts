// Each deliberate bug still fits the code, and names what catches it. `npm run test:mutants` checks
// that it is caught.
import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { INVARIANTS } from './history.ts'
import { type Mutant, readMutants } from './mutant-patches.ts'
import { ROUNDS } from './rounds.ts'

const PROJECT = join(import.meta.dirname, '../..')
/** From docs/reliability.md: the fault suite must catch at least this many. */
const LEAST_MUTANTS = 12
const ROUNDS_FOLDER = join(import.meta.dirname, 'rounds')
const ROUND_TEXTS = readdirSync(ROUNDS_FOLDER, { recursive: true, encoding: 'utf8' })
  .filter((name) => name.endsWith('.ts'))
  .map((name) => readFileSync(join(ROUNDS_FOLDER, name), 'utf8'))
  .join('\n')
const mutants = readMutants()

/** A round prints its numbers from variables. */
function asPrinted(words: string): RegExp {
  return new RegExp(words.replaceAll(/\d+/g, String.raw`(?:\d+|\$\{\w+\})`))
}

test('there are at least twelve deliberate bugs', () => {
  expect(mutants.length).toBeGreaterThanOrEqual(LEAST_MUTANTS)
})

test('every patch still fits the code', () => {
  for (const { path } of mutants) {
    execFileSync('git', ['apply', '--check', path], { cwd: PROJECT, stdio: 'pipe' })
  }
})

test('almost every invariant catches one of them', () => {
  const caught = new Set(mutants.map(({ mustBeCaughtBy: by }) => by.kind === 'invariant' && by.id))
  // No bug makes the product invent jobs (I2). A bug that sends a request after the end of a job
  // (I7) is caught by its cause.
  const without = new Set(['I2', 'I7'])
  const missed = Object.keys(INVARIANTS).filter((id) => !caught.has(id) && !without.has(id))
  expect(missed).toEqual([])
})

describe.each(mutants)('$name', ({ mustBeCaughtBy, stage }: Mutant) => {
  test('names what there is to catch it, and where that is played', () => {
    if (mustBeCaughtBy.kind === 'invariant') {
      expect(Object.keys(INVARIANTS)).toContain(mustBeCaughtBy.id)
    }
    if (mustBeCaughtBy.kind === 'complaint') {
      expect(ROUND_TEXTS).toMatch(asPrinted(mustBeCaughtBy.words))
    }
    expect(mustBeCaughtBy.kind === 'model').toBe(stage.kind === 'model')
    if (stage.kind === 'model') expect(existsSync(join(PROJECT, stage.file))).toBe(true)
    else {
      const round = ROUNDS.find(({ name }) => name === stage.round)
      expect(round?.engines).toEqual(expect.arrayContaining(stage.stores))
    }
  })
})
