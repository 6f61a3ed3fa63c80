// I2 and I3: every job was enqueued, and an idempotency key creates one job.
import { effectOf, type Facts, mayBeDeleted, type Report, type Work } from './facts.ts'

/**
 * Checks that every stored job was enqueued. If every request for a work was refused, it was not
 * enqueued.
 */
export function checkOrigins(facts: Facts, report: Report): void {
  const { works, jobs, history } = facts
  const worksWithJob = new Set<number>()
  for (const { workNumber, isAccepted, record } of jobs.values()) {
    if (workNumber !== null && (isAccepted || record !== null)) worksWithJob.add(workNumber)
  }
  for (const { jobId, workNumber, endpoint, fence, notice } of history.deliveries) {
    // I19 checks where it comes from.
    if (notice !== null) continue
    const work = works.get(workNumber)
    const job = jobs.get(jobId)
    const what = `work ${workNumber} was delivered as ${jobId} (fence ${fence})`
    if (work === undefined) report(`${what}, but nobody enqueued it`)
    else if (!isFor(work, endpoint)) report(`${what} to ${endpoint}, where nobody sent it`)
    else if (job?.workNumber === null && worksWithJob.has(workNumber)) {
      report(`${what}, an id that no answer and no record gave it`)
    }
  }
  for (const { id, workNumber, endpoint } of history.records) {
    // A notice or a job of a schedule has no work number.
    if (workNumber === null) continue
    const work = works.get(workNumber)
    if (work === undefined) report(`${id} is stored with work ${workNumber}, which nobody enqueued`)
    else if (!isFor(work, endpoint)) report(`${id} is stored for ${endpoint}: not as enqueued`)
  }
}

function isFor({ calls }: Work, endpoint: string): boolean {
  return calls.some((call) => call.endpoint === endpoint)
}

export function checkKeys(facts: Facts, report: Report): void {
  for (const [workNumber, ids] of severalIdsByWork(facts)) {
    const work = facts.works.get(workNumber)
    if (work === undefined || ids.size <= mostJobsOf(facts, work, ids)) continue
    const shown = [...ids].slice(0, 5).join(', ')
    report(`work ${workNumber} became ${ids.size} jobs: ${shown}`)
  }
  for (const { id, recordCount, record, workNumber } of facts.jobs.values()) {
    if (recordCount > 1) report(`${id} is stored ${recordCount} times`)
    const key = record?.idempotencyKey ?? null
    const keys = facts.works.get(workNumber ?? Number.NaN)?.calls
    if (key !== null && keys?.every((call) => call.idempotencyKey !== key)) {
      report(`${id} is stored under another idempotency key than it was enqueued with`)
    }
  }
}

/**
 * Only work with several ids, from responses and records. Ids of deliveries count only if responses
 * and records have no id; otherwise I2 reports them.
 */
function severalIdsByWork({ history, jobs }: Facts): Map<number, Set<string>> {
  const firstIdOf = new Map<number, string>()
  const several = new Map<number, Set<string>>()
  const add = (workNumber: number, id: string) => {
    const firstId = firstIdOf.get(workNumber)
    if (firstId === undefined) firstIdOf.set(workNumber, id)
    else if (firstId !== id) {
      const ids = several.get(workNumber) ?? new Set([firstId])
      several.set(workNumber, ids.add(id))
    }
  }
  for (const call of history.calls) {
    if (call.kind !== 'enqueue' || effectOf(call) !== 'done') continue
    if (call.jobId !== null) add(call.workNumber, call.jobId)
  }
  for (const { id, workNumber } of history.records) if (workNumber !== null) add(workNumber, id)
  const known = new Set(firstIdOf.keys())
  for (const { jobId, workNumber } of history.deliveries) {
    if (!known.has(workNumber) && jobs.get(jobId)?.workNumber === null) add(workNumber, jobId)
  }
  return several
}

/**
 * How many jobs this work may have. A key can be used again after its job was deleted. Without a
 * key, each call may have created a job.
 */
function mostJobsOf({ jobs }: Facts, { calls }: Work, ids: Set<string>): number {
  if (calls.some(({ idempotencyKey }) => idempotencyKey === null)) return calls.length
  let deletedCount = 0
  for (const id of ids) {
    const job = jobs.get(id)
    if (job !== undefined && mayBeDeleted(job)) deletedCount += 1
  }
  return 1 + deletedCount
}
