// A row of the benchmark, and its result.
import type { Sides } from './compare.ts'

export type StoreEngine = 'sqlite' | 'mongo'

export interface Row {
  /** The name in the table of docs/benchmarks.md. */
  name: string
  title: string
  play(bench: Bench): Promise<Result[]>
}

/** What all rows share. */
export interface Bench {
  /** Pairs of each comparison; the first is dropped. At least 2. */
  pairs: number
  /** Multiplies all amounts, so that a row can be tried in seconds; 1 in a run that counts. */
  scale: number
  /** A temporary folder of the run, which is removed with its content at the end. */
  folder: string
  /** Compare only with these, if a row has comparisons with both. */
  stores: StoreEngine[]
  /** Prints what is in progress, for people who wait. */
  say(line: string): void
}

export interface Spread {
  median: number
  min: number
  max: number
}

/**
 * Posthorn's value ÷ that of the peer; their difference, in their unit; or only Posthorn's value.
 */
export type Measure = 'ratio' | 'difference' | 'figure'

/** One line of the table. */
export interface Result {
  row: string
  what: string
  against: string
  /** Posthorn's value ÷ that of the peer, for each pair, or the measure in `of`. */
  durability: [string, string]
  /** Ours ÷ theirs of each pair, or what `of` says. */
  ratio: Spread
  /** What `ratio` contains. */
  of?: Measure
  /** Whether a good ratio is high (a speed) or low (a cost). */
  better: 'more' | 'less'
  /** null: no promise. */
  mustReach: number | null
  aim: number | null
  sides: Sides
  /** Covers all samples of Posthorn; null: nothing was sent. */
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
