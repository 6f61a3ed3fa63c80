// enqueue stores a batch in one durable transaction and returns a result for each job. A plain job
// costs two inserts: its row and its payload. Everything else is read only if the job asks for it.
import {
  type Acceptance,
  type AcceptingEndpoint,
  decideAcceptance,
  isDisabledFor,
  namesOthers,
  newlyQueued,
  newlyQueuedMinimal,
} from '../../job/acceptance.ts'
import type { IsMinimal, MinimalJob, NewJob, OnFinish } from '../../job/job.ts'
import { type EnqueueResult, MAX_ENQUEUE_BATCH } from '../store.ts'
import { BLOCKED_BY_SEQ, type BlockedJob, resolveBlocked, waitForFinishOf } from './blocked-jobs.ts'
import type { Database } from './connection.ts'
import {
  applyDedupe,
  findByAddedKey,
  findById,
  findByKey,
  findByOrigin,
  storedJob,
} from './enqueue-conflicts.ts'
import { runFinishEffects } from './finish-effects.ts'
import { type Adds, openAdds } from './group-members.ts'
import { keepNeeded, storeInputs } from './inputs.ts'
import { insertJob, parsed } from './job-row.ts'
import { stateOfDependency } from './jobs.ts'
import { type Lines, openLines } from './turns.ts'

/** An endpoint that is being deleted accepts no job. */
export const ACCEPTING_ENDPOINT = `
select max_attempts, on_finish, disabled_reason from endpoints
where name = $name and deleting = 0`

/** The endpoints that the transaction has read. null: there is none. */
type Endpoints = Map<string, AcceptingEndpoint | null>

export async function enqueue(
  database: Database,
  jobs: NewJob[],
  isMinimal: IsMinimal,
): Promise<EnqueueResult<MinimalJob>[]> {
  if (jobs.length > MAX_ENQUEUE_BATCH) {
    throw new RangeError(`${jobs.length} jobs in a batch of at most ${MAX_ENQUEUE_BATCH}`)
  }
  if (jobs.length === 0) return []
  const results = await database.connection.write('full', () => {
    const endpoints: Endpoints = new Map()
    const lines = openLines(database)
    const adds = openAdds(database)
    const parts = { endpoints, lines, adds }
    const perJob = jobs.map((job, i) => enqueueOne(database, job, parts, isMinimal(i)))
    adds.save()
    // Only a job that a new one displaced becomes final here.
    if (jobs.some(({ dedupe }) => dedupe?.mode === 'replace')) runFinishEffects(database)
    return perJob
  })
  if (results.some(({ kind }) => kind === 'inserted' || kind === 'existing'))
    database.notifier.notifyWork()
  return results
}

/** What the jobs of one transaction share. */
interface Shared {
  endpoints: Endpoints
  lines: Lines
  adds: Adds
}

function enqueueOne(
  database: Database,
  job: NewJob,
  { endpoints, lines, adds }: Shared,
  isMinimal: boolean,
): EnqueueResult<MinimalJob> {
  const endpoint = accepting(database, job.endpoint, endpoints)
  if (endpoint === null) return { kind: 'unknown_endpoint' }
  if (isDisabledFor(job, endpoint)) return { kind: 'endpoint_disabled' }
  // This comes first: a repeat returns the job that it created, whatever has changed since.
  const isReadFirst = job.dedupe !== null || namesOthers(job)
  const known = (isReadFirst ? findKnown : findByAddedKey)(database, job, isMinimal)
  if (known !== null) return known
  const decision = decideAcceptance(
    job,
    endpoint,
    (name) => accepting(database, name, endpoints) !== null,
    (id) => stateOfDependency(database, id),
    adds.refusal(job.group),
  )
  if (decision.kind !== 'accepted') {
    return isReadFirst ? decision : (findKnown(database, job, isMinimal) ?? decision)
  }
  if (job.dedupe !== null) {
    lines.forget()
    const found = applyDedupe(database, job, isMinimal)
    if (found !== null) return found
  }

  const seq = insertJob(database, job, decision, lines)
  if (seq === null) {
    const repeated = findKnown(database, job, isMinimal)
    if (repeated !== null) return repeated
    throw new Error(`job ${job.id} was neither inserted nor known`)
  }
  if (job.inputs !== undefined) storeInputs(database, seq, job.inputs)
  adds.added(job.group)
  const isReady = decision.isBlocked && unblockIfReady(database, job, decision, seq)
  if (isReady) return { kind: 'inserted', job: storedJob(database, job.id, isMinimal) }
  return { kind: 'inserted', job: (isMinimal ? newlyQueuedMinimal : newlyQueued)(job, decision) }
}

function accepting(
  { connection }: Database,
  name: string,
  endpoints: Endpoints,
): AcceptingEndpoint | null {
  const known = endpoints.get(name)
  if (known !== undefined) return known
  const row = connection.statement(ACCEPTING_ENDPOINT).get({ name }) as AcceptingRow | undefined
  const endpoint = row === undefined ? null : acceptingOf(row)
  endpoints.set(name, endpoint)
  return endpoint
}

interface AcceptingRow {
  max_attempts: number
  on_finish: string | null
  disabled_reason: string | null
}

function acceptingOf({ max_attempts, on_finish, disabled_reason }: AcceptingRow) {
  return {
    maxAttempts: max_attempts,
    onFinish: parsed<OnFinish | null>(on_finish, null),
    disabledReason: disabled_reason,
  }
}

function findKnown(
  database: Database,
  job: NewJob,
  isMinimal: boolean,
): EnqueueResult<MinimalJob> | null {
  return (
    findById(database, job, isMinimal) ??
    findByKey(database, job, isMinimal) ??
    findByOrigin(database, job, isMinimal)
  )
}

/** Whether a job that was inserted blocked waits for nothing any more, and was unblocked. */
function unblockIfReady(
  database: Database,
  job: NewJob,
  { waitingFor }: Acceptance,
  seq: number | bigint,
): boolean {
  // A job that has already failed is left to the sweep, so that the response shows a queued job.
  if (waitingFor.length === 0) {
    const blocked = database.connection.statement(BLOCKED_BY_SEQ).get({ seq })
    const kind = resolveBlocked(database, blocked as unknown as BlockedJob, { isNew: true })
    if (kind === 'ready') return true
  }
  waitForFinishOf(database, waitingFor, job.id)
  keepNeeded(database, job.id, job.needs)
  return false
}
