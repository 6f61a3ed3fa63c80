// Imports the pending work of Agenda through the API of Posthorn. The idempotency key of a job and
// the name of a schedule are derived from the document, so that a second run finds them. A document
// that the API refuses becomes a row with the reason; the others are imported.
import type { Posthorn } from '../../src/client/client.ts'
import { printError } from '../output.ts'
import type { AgendaCollection, ReadDocument } from './collection.ts'
import { type Given, type Plan, planOf, shownId } from './plan.ts'
import { createWriter, type Outcome, type Writer } from './writer.ts'

/** A result, and how many documents had it. */
export interface Row {
  name: string
  becomes: string
  count: number
  note: string
  /** The `_id` in Agenda, of a document that was refused. */
  id?: string
}

type Planned<K extends Plan['kind']> = Extract<Plan, { kind: K }> & { id: string }

const BATCH_JOBS = 100
const BATCH_BYTES = 4 * 1_048_576
const PROGRESS_EVERY = 10_000
/** Results beyond this number of rows are counted in one row. */
const MAX_ROWS = 1_000

interface Import {
  writer: Writer
  rows: Rows
}

export type Rows = Map<string, Row>

/**
 * @param endpoints the endpoint for each job name of Agenda
 * @param rows filled during the import: after a failure it has the results until then
 */
export async function importAll(
  agenda: AgendaCollection,
  posthorn: Posthorn,
  { endpoints, isDry, rows }: { endpoints: Map<string, string>; isDry: boolean; rows: Rows },
): Promise<void> {
  const given = { endpoints, source: agenda.source }
  const work: Import = { writer: createWriter(posthorn, isDry), rows }
  let batch: Planned<'job'>[] = []
  let batchBytes = 0
  let seen = 0
  const flush = async () => {
    await enqueueAll(work, batch)
    batch = []
    batchBytes = 0
  }
  for await (const read of agenda.documents()) {
    if (++seen % PROGRESS_EVERY === 0) printError(`${seen} read`)
    const plan = { ...planRead(read, given), id: shownId(read.document._id) }
    if (plan.kind === 'skipped') count(work, plan.name, 'skipped', plan.reason)
    else if (plan.kind === 'refused') refuse(work, plan, plan.reason)
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
      becomes: 'skipped',
      count: finishedCount,
      note: 'neither due nor repeating',
    })
  }
}

/** A document that is skipped anyway is not refused for its encoding. */
function planRead({ document, problem }: ReadDocument, given: Given): Plan {
  const plan = planOf(document, given)
  if (problem === null || plan.kind === 'skipped') return plan
  return { name: plan.name, kind: 'refused', reason: problem }
}

async function enqueueAll(work: Import, batch: Planned<'job'>[]): Promise<void> {
  if (batch.length === 0) return
  const outcomes = await work.writer.enqueue(batch.map(({ job }) => job))
  for (const [i, plan] of batch.entries()) {
    countOutcome(work, plan, `job of ${plan.job.endpoint}`, outcomes[i] as Outcome)
  }
}

async function makeSchedule(work: Import, plan: Planned<'schedule'>): Promise<void> {
  const { scheduleName, settings, note } = plan
  const outcome = await work.writer.putSchedule(scheduleName, settings)
  const paused = settings.paused ? ', paused' : ''
  countOutcome(work, plan, `schedule ${scheduleName}`, outcome, `: ${note}${paused}`)
}

function countOutcome(
  work: Import,
  plan: Planned<'job' | 'schedule'>,
  becomes: string,
  outcome: Outcome,
  details = '',
): void {
  const { kind } = outcome
  if (kind === 'refused') refuse(work, plan, outcome.reason)
  else count(work, plan.name, becomes, kind === 'already imported' ? kind : `${kind}${details}`)
}

/** The refused document gets a row of its own with its id, because a person has to look at it. */
function refuse(work: Import, { name, id }: { name: string; id: string }, reason: string): void {
  count(work, name, 'refused', reason, id)
}

function count({ rows }: Import, name: string, becomes: string, note: string, id?: string): void {
  const key = JSON.stringify([name, becomes, note, id])
  const known = rows.get(key)
  if (known !== undefined) known.count++
  else if (rows.size < MAX_ROWS || name === '(others)') {
    rows.set(key, { name, becomes, count: 1, note, ...(id === undefined ? {} : { id }) })
  } else count({ rows } as Import, '(others)', becomes, '')
}
