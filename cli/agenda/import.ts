// Carries what Agenda has to do over to a Posthorn, through its API alone. Each job has a key made
// of its document, each schedule a name made of it: a second run finds both there.
import { type NewJob, type Posthorn, PosthornError } from '../../src/client/client.ts'
import { sayAside } from '../shown.ts'
import type { AgendaCollection } from './collection.ts'
import { type Plan, planOf } from './plan.ts'

/** One kind of thing that happened, and how often. */
export interface Row {
  name: string
  becomes: string
  count: number
  note: string
}

type PlannedJob = Extract<Plan, { kind: 'job' }>
type PlannedSchedule = Extract<Plan, { kind: 'schedule' }>

interface Answer {
  status: number
  error?: { code: string; detail: string } | undefined
}

const BATCH_JOBS = 100
const BATCH_BYTES = 4 * 1_048_576
const PROGRESS_EVERY = 10_000
/** Further ones are counted together. */
const MAX_ROWS = 1_000

interface Import {
  posthorn: Posthorn
  isDry: boolean
  count(name: string, becomes: string, note: string): void
}

/** @param endpoints by name in Agenda */
export async function importAll(
  agenda: AgendaCollection,
  posthorn: Posthorn,
  { endpoints, isDry }: { endpoints: Map<string, string>; isDry: boolean },
): Promise<Row[]> {
  const rows = new Map<string, Row>()
  const work: Import = { posthorn, isDry, count: (...what) => countIn(rows, ...what) }
  let batch: PlannedJob[] = []
  let batchBytes = 0
  let seen = 0
  const flush = async () => {
    await enqueueAll(work, batch)
    batch = []
    batchBytes = 0
  }
  for await (const document of agenda.documents()) {
    if (++seen % PROGRESS_EVERY === 0) sayAside(`${seen} read`)
    const plan = planOf(document, endpoints)
    if (plan.kind === 'left') work.count(plan.name, 'left', plan.reason)
    else if (plan.kind === 'schedule') await makeSchedule(work, plan)
    else {
      const bytes = Buffer.byteLength(plan.job.rawPayload)
      if (batch.length === BATCH_JOBS || batchBytes + bytes > BATCH_BYTES) await flush()
      batch.push(plan)
      batchBytes += bytes
    }
  }
  await flush()
  const finishedCount = await agenda.finishedCount()
  if (finishedCount > 0) {
    rows.set('', {
      name: '(all)',
      becomes: 'left',
      count: finishedCount,
      note: 'finished or failed',
    })
  }
  return [...rows.values()]
}

function countIn(rows: Map<string, Row>, name: string, becomes: string, note: string): void {
  const key = JSON.stringify([name, becomes, note])
  const known = rows.get(key)
  if (known !== undefined) known.count++
  else if (rows.size < MAX_ROWS) rows.set(key, { name, becomes, count: 1, note })
  else countIn(rows, '(others)', becomes, '')
}

async function enqueueAll({ posthorn, isDry, count }: Import, batch: PlannedJob[]): Promise<void> {
  if (batch.length === 0) return
  const becomes = ({ job }: PlannedJob) => `job of ${job.endpoint}`
  if (isDry) {
    for (const plan of batch) count(plan.name, becomes(plan), 'would be added, unless it is there')
    return
  }
  const items = await answersOf(posthorn, batch)
  for (const [i, plan] of batch.entries()) {
    const item = items[i]
    if (item?.status === 201) count(plan.name, becomes(plan), 'added')
    // Agenda has moved its next run since: another request, but the same job.
    else if (item?.status === 200 || item?.error?.code === 'idempotency_key_reused') {
      count(plan.name, becomes(plan), 'there already')
    } else count(plan.name, 'refused', item?.error?.detail ?? 'no answer')
  }
}

/** What is too large to be sent together is sent apart. */
async function answersOf(posthorn: Posthorn, batch: PlannedJob[]): Promise<Answer[]> {
  try {
    return await posthorn.enqueueBatch(batch.map(({ job }): NewJob => job))
  } catch (error) {
    if (!(error instanceof PosthornError) || error.code !== 'payload_too_large') throw error
    if (batch.length === 1) return [{ status: 413, error }]
    const half = Math.ceil(batch.length / 2)
    const first = await answersOf(posthorn, batch.slice(0, half))
    return [...first, ...(await answersOf(posthorn, batch.slice(half)))]
  }
}

async function makeSchedule(work: Import, plan: PlannedSchedule): Promise<void> {
  const { posthorn, isDry, count } = work
  const { name, scheduleName, settings, note } = plan
  const becomes = `schedule ${scheduleName}`
  const paused = settings.paused ? ', paused' : ''
  if (await exists(posthorn, scheduleName)) count(name, becomes, 'there already')
  else if (isDry) count(name, becomes, `would be added: ${note}${paused}`)
  else {
    try {
      await posthorn.schedules.put(scheduleName, settings)
      count(name, becomes, `added: ${note}${paused}`)
    } catch (error) {
      if (!(error instanceof PosthornError) || error.code !== 'invalid_request') throw error
      count(name, 'refused', error.detail)
    }
  }
}

async function exists(posthorn: Posthorn, scheduleName: string): Promise<boolean> {
  try {
    await posthorn.schedules.get(scheduleName)
    return true
  } catch (error) {
    if (error instanceof PosthornError && error.code === 'schedule_not_found') return false
    throw error
  }
}
