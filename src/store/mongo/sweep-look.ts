// What a sweep may find in the jobs, as filters, and one look for all of them: an idle store is
// asked one question by each sweep, not six.
import type { Document, Filter } from 'mongodb'
import { type MongoContext, nowOf } from './context.ts'
import { FINAL_STATES, type JobDocument } from './documents.ts'
import { guardOf } from './guards.ts'
import { run, startDeadline } from './run-command.ts'

/** Filter and order of each, as its index has them. */
export const SWEEPABLE = {
  /** Of those that are sent or pulled: what awaits completion is overdue.ts's. */
  lapsed: (now) => ({
    filter: { state: 'running', leaseExpiresAt: { $lte: now }, phase: 'sending' },
    sort: { leaseExpiresAt: 1 },
  }),
  // One state at a time, for each has an index of its own.
  expiredQueued: (now) => ({
    filter: { ...guardOf('expire', { now }), state: 'queued' },
    sort: { expiresAt: 1 },
  }),
  expiredHeld: (now) => ({
    filter: { ...guardOf('expire', { now }), state: 'held' },
    sort: { expiresAt: 1 },
  }),
  /** The one looked at least recently comes first. */
  held: (now) => ({
    filter: { state: 'held', checkedAt: { $lte: now } },
    sort: { checkedAt: 1 },
  }),
  /** Final, and their aftermath left undone. */
  owing: () => ({ filter: { owes: true, state: { $in: [...FINAL_STATES] } }, sort: {} }),
  purgeable: (now) => ({ filter: guardOf('purge', { now }), sort: { purgeAt: 1 } }),
} satisfies Record<string, (now: Date) => { filter: Filter<JobDocument>; sort: Record<string, 1> }>

export type Sweepable = keyof typeof SWEEPABLE

/** Which kinds there are any of. */
export async function lookForSweepable(context: MongoContext): Promise<ReadonlySet<Sweepable>> {
  const now = nowOf(context)
  const pipelines = Object.entries(SWEEPABLE).map(([kind, of]): Document[] => {
    const { filter, sort } = of(now)
    const order = Object.keys(sort).length === 0 ? [] : [{ $sort: sort }]
    return [{ $match: filter }, ...order, { $limit: 1 }, { $group: { _id: kind } }]
  })
  const [first = [], ...others] = pipelines
  const unions = others.map((pipeline) => ({ $unionWith: { coll: 'jobs', pipeline } }))
  const found = await run(startDeadline(), (limit) =>
    context.jobs.aggregate<{ _id: Sweepable }>([...first, ...unions], limit).toArray(),
  )
  return new Set(found.map(({ _id }) => _id))
}
