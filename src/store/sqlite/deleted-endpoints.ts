// Ends the jobs of endpoints that are deleted or being deleted: abandons the queued ones and evicts
// the running ones. Deletes the endpoint itself once it has no unfinished job.

import { ENDPOINT_GONE } from '../../job/attempt.ts'
import { type FinishEffects, NO_EFFECTS, sumEffects } from '../../job/finish-effects.ts'
import type { SweepCounts } from '../sweep.ts'
import { type Database, reportEnd } from './connection.ts'
import { FORGET_KEYS } from './fairness-keys.ts'
import { runFinishEffects } from './finish-effects.ts'
import { guardOf } from './guards.ts'
import {
  attemptLine,
  DROP_LEASE,
  endedAttempt,
  FAILURE,
  finishAs,
  finishQueuedAs,
  WITH_ATTEMPT,
} from './job-row.ts'
import { FORGET_LIMITS } from './shared-limits.ts'
import { FORGET_LANES } from './turns.ts'

/**
 * Our own writes leave no job without its endpoint; only a change of the file by hand can. So each
 * sweep looks at a few names, and the next one continues.
 */
const NAMES_PER_SWEEP = 100

export const DELETING_ENDPOINTS = 'select name from endpoints where deleting = 1 limit +$limit'

/** The next name after this one that has unfinished jobs: four seeks. */
export const NEXT_BUSY_NAME = `
select min(name) as name from (
  select min(endpoint) as name from jobs
    where claimable = 1 and endpoint > $after
  union all
  select min(endpoint) from jobs where blocked = 1 and endpoint > $after
  union all
  select min(endpoint) from jobs where blocked = 2 and endpoint > $after
  union all
  select min(endpoint) from jobs where state = 'running' and endpoint > $after)`

export const ENDPOINT_EXISTS = 'select 1 from endpoints where name = $name'

export const CLAIMABLE_OF = `
select seq, id from jobs where claimable = 1 and endpoint = $name limit +$limit`
export const BLOCKED_OF =
  'select seq, id from jobs where blocked = 1 and endpoint = $name limit +$limit'
export const OUTSIDE_OF =
  'select seq, id from jobs where blocked = 2 and endpoint = $name limit +$limit'
export const RUNNING_OF = `
select seq, id, fence, lease_id, worker_id, claimed_at, attempt_count from jobs
where state = 'running' and endpoint = $name limit +$limit`

export const ABANDON = `
update jobs set ${finishQueuedAs('dead')}, ${FAILURE}
where seq = $seq and ${guardOf('abandon')}`
export const EVICT = `
update jobs set attempts = ${WITH_ATTEMPT}, ${finishAs('dead')}, ${FAILURE}, ${DROP_LEASE}
where seq = $seq and ${guardOf('evict')}`

export const REMOVE_ENDPOINT = `
delete from endpoints where name = $name and deleting = 1
  and not exists (select 1 from jobs
    where claimable = 1 and jobs.endpoint = endpoints.name)
  and not exists (select 1 from jobs where blocked = 1 and jobs.endpoint = endpoints.name)
  and not exists (select 1 from jobs where blocked = 2 and jobs.endpoint = endpoints.name)
  and not exists (select 1 from jobs where state = 'running' and jobs.endpoint = endpoints.name)`

type EndedCounts = Pick<SweepCounts, 'abandoned' | 'evicted'> & FinishEffects

export async function endJobsOfDeletedEndpoints(
  database: Database,
  limit: number,
): Promise<EndedCounts> {
  const { connection } = database
  let counts: EndedCounts = { abandoned: 0, evicted: 0, ...NO_EFFECTS }
  const { deleting, missing } = await connection.read(() => ({
    deleting: connection.statement(DELETING_ENDPOINTS).all({ limit }).map(nameOf),
    missing: findMissing(database),
  }))
  for (const name of [...deleting, ...missing]) {
    const ended = await connection.write('normal', () =>
      endJobsOf(database, name, limit - counts.abandoned, limit - counts.evicted),
    )
    counts = {
      abandoned: counts.abandoned + ended.abandoned,
      evicted: counts.evicted + ended.evicted,
      ...sumEffects([counts, ended]),
    }
    if (counts.abandoned >= limit || counts.evicted >= limit) break
  }
  return counts
}

function endJobsOf(
  database: Database,
  name: string,
  abandonLimit: number,
  evictLimit: number,
): EndedCounts {
  const { connection, clock } = database
  const now = clock.now()
  const death = { finishedAt: now, ...ENDPOINT_GONE }
  const end = { endpoint: name, deathReason: ENDPOINT_GONE.reason }
  let abandoned = 0
  const queued = [OUTSIDE_OF, CLAIMABLE_OF, BLOCKED_OF].flatMap((sql) =>
    connection.statement(sql).all({ name, limit: abandonLimit }),
  )
  for (const { seq, id } of queued.slice(0, abandonLimit)) {
    const { changes } = connection.statement(ABANDON).run({ seq: seq as number, ...death })
    if (changes === 0) continue
    abandoned++
    reportEnd(database, { ...end, jobId: id as string, attempt: null })
  }
  let evicted = 0
  const running = connection.statement(RUNNING_OF).all({ name, limit: evictLimit })
  for (const row of running as unknown as RunningRow[]) {
    const lease = { fence: row.fence, leaseId: row.lease_id }
    const attempt = endedAttempt(row, 'endpoint_deleted', now)
    const line = attemptLine(attempt, lease, 'evict')
    const { changes } = connection.statement(EVICT).run({ seq: row.seq, line, ...death })
    if (changes === 0) continue
    evicted++
    reportEnd(database, { ...end, jobId: row.id, attempt })
  }
  const after = runFinishEffects(database)
  const { changes } = connection.statement(REMOVE_ENDPOINT).run({ name })
  if (changes === 1) {
    for (const sql of [FORGET_LANES, FORGET_KEYS, FORGET_LIMITS]) {
      connection.statement(sql).run({ endpoint: name })
    }
  }
  return { abandoned, evicted, ...after }
}

interface RunningRow {
  seq: number
  id: string
  fence: number
  lease_id: string
  worker_id: string
  claimed_at: number
  attempt_count: number
}

/** Names that unfinished jobs have and no endpoint has. */
function findMissing({ connection, nextSweep }: Database): string[] {
  const missing: string[] = []
  for (let looked = 0; looked < NAMES_PER_SWEEP; looked++) {
    const after = nextSweep.afterName
    const name = connection.statement(NEXT_BUSY_NAME).get({ after })?.name
    if (typeof name !== 'string') {
      nextSweep.afterName = ''
      break
    }
    nextSweep.afterName = name
    if (connection.statement(ENDPOINT_EXISTS).get({ name }) === undefined) missing.push(name)
  }
  return missing
}

function nameOf(row: Record<string, unknown>): string {
  return row.name as string
}
