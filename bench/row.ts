// What a row of the benchmark is, and what it says when it was played.
import type { Sides } from './compare.ts'

export type StoreEngine = 'sqlite' | 'mongo'

export interface Row {
  /** As in the table of docs/benchmarks.md. */
  name: string
  title: string
  play(bench: Bench): Promise<Result[]>
}

/** What all rows share. */
export interface Bench {
  /** Pairs of each comparison; the first is dropped. At least 2. */
  pairs: number
  /** Of all amounts, so that a row can be tried in seconds; 1 in a run that counts. */
  scale: number
  /** A temporary folder of the run; whatever is in it at the end is removed. */
  folder: string
  /** Only these, where a row has comparisons of both. */
  stores: StoreEngine[]
  /** What is under way, for whoever waits. */
  say(line: string): void
}

export interface Spread {
  median: number
  min: number
  max: number
}

/** Ours ÷ theirs; ours − theirs, in their unit; or our own figure, set against nothing. */
export type Measure = 'ratio' | 'difference' | 'figure'

/** One line of the table. */
export interface Result {
  row: string
  what: string
  against: string
  /** How durable our side is, then theirs: `every commit`, `every second`, `none`. */
  durability: [string, string]
  /** Ours ÷ theirs, pair by pair, or what `of` says. */
  ratio: Spread
  /** What `ratio` holds. */
  of?: Measure
  /** Which ratio is good: a speed is to be high, a cost is to be low. */
  better: 'more' | 'less'
  /** null: nothing is promised. */
  mustReach: number | null
  aim: number | null
  sides: Sides
  /** Over all samples of our side; null: nothing was sent. */
  delivery: DeliveryCheck | null
  notes: string[]
}

export interface DeliveryCheck {
  accepted: number
  delivered: number
  doubles: number
}

export function isMet({ ratio, better, mustReach }: Result): boolean {
  if (mustReach === null) return true
  return better === 'more' ? ratio.median >= mustReach : ratio.median <= mustReach
}

export function spread(values: number[]): Spread {
  const sorted = values.toSorted((x, y) => x - y)
  if (sorted.length === 0) throw new Error('nothing was measured')
  return {
    median: sorted[Math.floor(sorted.length / 2)] as number,
    min: sorted[0] as number,
    max: sorted.at(-1) as number,
  }
}
