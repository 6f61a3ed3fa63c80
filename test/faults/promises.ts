// The promises D1 to D19, and how each is derived from the reports of a run.
import type { Engine } from './history.ts'
import type { RoundReport } from './run.ts'

export const ENGINE_NAMES: Record<Engine, string> = { sqlite: 'SQLite', mongo: 'MongoDB' }

export interface DurablePromise {
  id: string
  promise: string
  /**
   * The figures of one store.
   * @param reports the last report of each round
   * @param all all reports, including those of rounds that were repeated
   */
  measured(reports: RoundReport[], all: RoundReport[]): string
}

const NOT_MEASURED = '–'
const round = (value: number) => Math.round(value * 10) / 10

function sum(
  reports: RoundReport[],
  figure: 'accepted' | 'lost' | 'fenceDoubles' | 'resends',
): number {
  return reports.reduce((total, { figures }) => total + (figures?.[figure] ?? 0), 0)
}

function largest(reports: RoundReport[], read: (report: RoundReport) => number | null | undefined) {
  const values = reports.map(read).filter((value) => typeof value === 'number')
  return values.length === 0 ? null : Math.max(...values)
}

/** Returns what the rounds measured for this promise, in the words of the rounds. */
function measuredOf(id: string) {
  return (reports: RoundReport[]) => {
    const lines = reports.flatMap(({ measured }) =>
      Object.entries(measured)
        .filter(([name]) => name.startsWith(`${id} `))
        .map(([name, value]) => `${name.slice(id.length + 1)}: ${round(value)}`),
    )
    return lines.length === 0 ? NOT_MEASURED : lines.join('; ')
  }
}

export const PROMISES: readonly DurablePromise[] = [
  {
    id: 'D1',
    promise: 'no job whose enqueue got 201 or 200 is ever lost',
    measured: (_, all) => `${sum(all, 'lost')} of ${sum(all, 'accepted')} lost`,
  },
  {
    id: 'D2',
    promise: 'without faults no job is delivered twice',
    measured(_, all) {
      const calm = all.filter((one) => one.round === 'calm')
      const extra = calm.reduce((total, { figures }) => total + (figures?.extraDeliveries ?? 0), 0)
      return `${extra} of ${sum(calm, 'accepted')} twice`
    },
  },
  {
    id: 'D3',
    promise: 'under faults every second delivery is explained by a fault that overlaps it',
    measured(reports) {
      const extra = reports.reduce(
        (total, { figures }) => total + (figures?.extraDeliveries ?? 0),
        0,
      )
      const why = reports.reduce((total, { figures }) => total + (figures?.extraExplained ?? 0), 0)
      return `${extra} second deliveries, ${why} explained`
    },
  },
  {
    id: 'D4',
    promise: 'a killed worker’s jobs are sent again within lease + sweep + 1 s: the maximum',
    measured(reports) {
      const kills = reports.filter((one) => one.round === 'kill-windows')
      const ms = largest(kills, ({ figures }) => figures?.redelivery.longestUndisturbedMs)
      return ms === null ? NOT_MEASURED : `${Math.round(ms)} ms, of 2,700 ms promised`
    },
  },
  {
    id: 'D5',
    promise: 'no stale result is applied; each that is refused is counted',
    measured: measuredOf('D5'),
  },
  {
    id: 'D6',
    promise:
      'attempts are the claims, those that cost stay within the maximum; no (job, fence) twice but when a kept connection died unanswered',
    measured(reports) {
      const most = largest(reports, ({ figures }) => figures?.mostCostingAttempts)
      const doubles = `${sum(reports, 'fenceDoubles')} doubles, ${sum(reports, 'resends')} resends`
      return `${doubles}; at most ${most} of 20 attempts used`
    },
  },
  {
    id: 'D7',
    promise: 'clocks that are wrong or jump change nothing; nothing is early by the store’s clock',
    measured: measuredOf('D7'),
  },
  {
    id: 'D8',
    promise:
      'SIGTERM: no claim after 250 ms, exit 0 within the grace; restarts lose and double nothing',
    measured: measuredOf('D8'),
  },
  {
    id: 'D9',
    promise: 'the store goes and comes back: 503 within 3 s, no crash, work goes on by itself',
    measured: measuredOf('D9'),
  },
  {
    id: 'D10',
    promise: '50 identical enqueues at once with one key make one job',
    measured: measuredOf('D10'),
  },
  {
    id: 'D11',
    promise: 'due jobs start within POLL_INTERVAL + 250 ms at 70 % load, never before runAt',
    measured(reports) {
      const lateness = reports.find((one) => one.round === 'calm')?.figures?.latenessMs
      if (!lateness) return NOT_MEASURED
      const [p50, p99, max] = [lateness.p50, lateness.p99, lateness.max].map(Math.round)
      return `p50 ${p50} ms, p99 ${p99} ms, max ${max} ms`
    },
  },
  {
    id: 'D12',
    promise: 'endpoints that hang with 10,000 due jobs cost the others ≤ 500 ms on their p99',
    measured: measuredOf('D12'),
  },
  {
    id: 'D13',
    promise: 'ten times the load: the excess is refused, memory stays bounded, the backlog drains',
    measured: measuredOf('D13'),
  },
  { id: 'D14', promise: 'dead workers show within 10 s', measured: measuredOf('D14') },
  {
    id: 'D15',
    promise:
      'a store slower than the work: the backlog drains at ≥ 0.4 of what the store alone settles, or the workers deliver of a quick store',
    measured: measuredOf('D15'),
  },
  {
    id: 'D16',
    promise: 'a worker frozen between claim and send sends nothing after its lease has ended',
    measured: measuredOf('D16'),
  },
  {
    id: 'D17',
    promise:
      'clients without a key cost ≤ 5 ms of CPU for a megabyte and 200 MB in all; 0.7 of the enqueues of others go on',
    measured: measuredOf('D17'),
  },
  {
    id: 'D18',
    promise: 'another process takes over the upkeep within 3 s of the death of its holder',
    measured: measuredOf('D18'),
  },
  {
    id: 'D19',
    promise:
      'SQLite after a power loss: nothing accepted is lost, no (job, fence) is sent twice; what was undone is sent again',
    measured: measuredOf('D19'),
  },
]
