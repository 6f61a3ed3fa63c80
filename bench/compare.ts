// Measures in pairs within one run, because only that gives usable results on a noisy machine.
import { type Bench, type Measure, type Result, type Spread, spread } from './row.ts'

export interface Sample {
  /** The value, in the unit of the comparison. */
  value: number
  /** CPU of each process, microseconds per job. */
  cpuUs?: Record<string, number>
}

export interface Side {
  /** Name, with version and settings if there are any. */
  name: string
  /** `every commit`: of what a response has reported. `every second` or `none`. */
  durability: string
  measure(): Promise<Sample>
}

export interface Sides {
  unit: string
  ours: SideSummary
  theirs: SideSummary
}

export interface SideSummary {
  name: string
  value: Spread
  /** Medians by process, in microseconds per job. */
  cpuUs: Record<string, number>
}

export interface Terms {
  row: string
  what: string
  /** The unit of both values, such as `jobs/s` or `ms`. */
  unit: string
  better: 'more' | 'less'
  mustReach: number | null
  aim: number | null
  /** What the bounds apply to; default: the ratio. */
  of?: Measure
}

/**
 * The order is ABBA: it changes with each pair, so that a machine that becomes slower favours
 * neither side.
 */
export async function compare(
  { pairs, say }: Bench,
  terms: Terms,
  ours: Side,
  theirs: Side,
): Promise<Result> {
  const samples: { ours: Sample; theirs: Sample }[] = []
  for (let i = 0; i < pairs; i++) {
    const isOursFirst = i % 2 === 0
    const first = await (isOursFirst ? ours : theirs).measure()
    const second = await (isOursFirst ? theirs : ours).measure()
    const pair = isOursFirst ? { ours: first, theirs: second } : { ours: second, theirs: first }
    samples.push(pair)
    const { unit } = terms
    say(
      `  ${i + 1}/${pairs} ${terms.row}: ${ours.name} ${shown(pair.ours.value)} ${unit}, ` +
        `${theirs.name} ${shown(pair.theirs.value)} ${unit}, ` +
        `${terms.of ?? 'ratio'} ${measured(quotient(pair, terms.of), terms)}`,
    )
  }
  const kept = samples.slice(1)
  const { unit, ...rest } = terms
  return {
    ...rest,
    against: theirs.name,
    durability: [ours.durability, theirs.durability],
    ratio: spread(kept.map((pair) => quotient(pair, terms.of))),
    sides: {
      unit,
      ours: summaryOf(
        ours.name,
        kept.map((pair) => pair.ours),
      ),
      theirs: summaryOf(
        theirs.name,
        kept.map((pair) => pair.theirs),
      ),
    },
    delivery: null,
    notes: [],
  }
}

/** A figure without a counterpart. The first sample is dropped, as in pairs. */
export function figureOf(
  { unit, ...terms }: Terms,
  { name, durability }: Omit<Side, 'measure'>,
  samples: Sample[],
): Result {
  const ours = summaryOf(name, samples.slice(1))
  return {
    ...terms,
    ...{ of: 'figure', against: 'itself', durability: [durability, durability] },
    ratio: ours.value,
    sides: { unit, ours, theirs: { ...ours, name: 'itself', cpuUs: {} } },
    ...{ delivery: null, notes: [] },
  }
}

function quotient({ ours, theirs }: { ours: Sample; theirs: Sample }, of: Measure = 'ratio') {
  return of === 'difference' ? ours.value - theirs.value : ours.value / theirs.value
}

/** A value as text for people: `0.92`, `+12 ms` or `84 µs`. */
export function measured(value: number, { of = 'ratio', unit }: Pick<Terms, 'of' | 'unit'>) {
  if (of === 'ratio') return shown(value)
  return `${of === 'difference' && value >= 0 ? '+' : ''}${shown(value)} ${unit}`
}

function summaryOf(name: string, samples: Sample[]): SideSummary {
  const processes = Object.keys(samples[0]?.cpuUs ?? {})
  return {
    name,
    value: spread(samples.map(({ value }) => value)),
    cpuUs: Object.fromEntries(
      processes.map((one) => [one, spread(samples.map(({ cpuUs }) => cpuUs?.[one] ?? 0)).median]),
    ),
  }
}

export const shown = (value: number) =>
  Math.abs(value) >= 100 ? String(Math.round(value)) : String(Number(value.toPrecision(3)))
