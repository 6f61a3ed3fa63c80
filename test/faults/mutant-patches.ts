// Reads the patches in mutants/. The header of each states what the bug breaks, what must catch it,
// and where it runs. An unknown header is an error, because a bug that never runs proves nothing.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Engine } from './history.ts'

const MUTANTS_FOLDER = join(import.meta.dirname, 'mutants')
const PATCH_ENDING = '.patch'

export interface Mutant {
  name: string
  /** The header of the patch. */
  path: string
  /** What the bug breaks, in one sentence. */
  breaks: string
  mustBeCaughtBy: Catcher
  stage: Stage
}

/**
 * What must catch the bug: an invariant, some words of a message of the round, or a test of the
 * model.
 */
export type Catcher =
  | { kind: 'invariant'; id: string }
  | { kind: 'complaint'; words: string }
  | { kind: 'model' }

export type Stage =
  | { kind: 'round'; round: string; stores: Engine[] }
  /**
   * `tests`: the beginning of their names. They run once for each store, with the bug in that
   * store.
   */
  | { kind: 'model'; file: string; tests: string; stores: Engine[] }

/** Returns the mutants in the order of their names. */
export function readMutants(): Mutant[] {
  return readdirSync(MUTANTS_FOLDER)
    .filter((file) => file.endsWith(PATCH_ENDING))
    .sort()
    .map((file) => {
      const path = join(MUTANTS_FOLDER, file)
      return { name: file.slice(0, -PATCH_ENDING.length), path, ...readHead(path) }
    })
}

const FIRST_LINE =
  /^(?:(?<invariant>I\d+)|"(?<words>[^"]+)"|(?<model>lease-model)): (?<breaks>.+\.)$/
const ROUND_LINE = /^Played by: (?<round>[a-z0-9-]+) on (?<stores>sqlite|mongo|sqlite and mongo)$/
const MODEL_LINE = /^Played by: (?<file>test\/model\/\S+\.test\.ts), (?<tests>.+)$/

function readHead(path: string): Pick<Mutant, 'breaks' | 'mustBeCaughtBy' | 'stage'> {
  const [first = '', second = ''] = readFileSync(path, 'utf8').split('\n', 2)
  const { invariant, words, model, breaks = '' } = FIRST_LINE.exec(first)?.groups ?? {}
  const stage = readStage(second)
  const mustBeCaughtBy = catcherOf(invariant, words, model)
  if (mustBeCaughtBy === null || stage === null) {
    throw new Error(`${path} does not begin with what it breaks and where that is played`)
  }
  return { breaks, mustBeCaughtBy, stage }
}

function catcherOf(invariant?: string, words?: string, model?: string): Catcher | null {
  if (invariant !== undefined) return { kind: 'invariant', id: invariant }
  if (words !== undefined) return { kind: 'complaint', words }
  return model === undefined ? null : { kind: 'model' }
}

function readStage(line: string): Stage | null {
  const { round, stores } = ROUND_LINE.exec(line)?.groups ?? {}
  if (round !== undefined) {
    return { kind: 'round', round, stores: stores?.split(' and ') as Engine[] }
  }
  const { file, tests } = MODEL_LINE.exec(line)?.groups ?? {}
  if (file === undefined || tests === undefined) return null
  return { kind: 'model', file, tests, stores: ['sqlite', 'mongo'] }
}
