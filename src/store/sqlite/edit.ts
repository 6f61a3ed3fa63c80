// edit: what a person changes about a job that is queued.
import { instantsAfterEdit, type JobChange, refusalOfEdit } from '../../job/edit.ts'
import type { Job } from '../../job/job.ts'
import type { EditResult } from '../job-commands.ts'
import type { Database } from './database.ts'
import { REPLACE_PAYLOAD } from './dedupe.ts'
import { guardOf } from './guards.ts'
import { jobOfId } from './known-jobs.ts'
import { listText, mapText } from './rows.ts'

export const SEQ_OF = 'select seq from jobs where id = ?'

/** The last parameters: id, version. */
export const EDIT = `
update jobs set run_at = ?, due_at = ?, first_run_at = ?, expires_at = ?, priority = ?,
  tags = ?, metadata = ?,
  payload_bytes = ?, version = version + 1
where id = ? and ${guardOf('edit')}`

export async function edit(
  database: Database,
  id: string,
  change: JobChange,
  ifVersion: number | null,
): Promise<EditResult> {
  const result = await database.connection.write('full', () =>
    editOne(database, id, change, ifVersion),
  )
  if (result.kind === 'applied') database.watch.stir()
  return result
}

/** What is read here stays so to the end of the transaction: no race to begin anew for. */
function editOne(
  database: Database,
  id: string,
  change: JobChange,
  ifVersion: number | null,
): EditResult {
  const { connection } = database
  const job = jobOfId(database, id)
  if (job === null) return { kind: 'not_found' }
  const refusal = refusalOfEdit(job, change, ifVersion)
  if (refusal !== null) return refusal
  const { payload } = change
  const { runAt, firstRunAt, expiresAt } = instantsAfterEdit(job, change)
  connection
    .statement(EDIT)
    .run(
      runAt,
      runAt,
      firstRunAt,
      expiresAt,
      change.priority ?? job.priority,
      listText(change.tags ?? job.tags),
      mapText(change.metadata ?? job.metadata),
      payload?.byteLength ?? job.payloadBytes,
      id,
      job.version,
    )
  if (payload !== undefined) {
    const { seq } = connection.statement(SEQ_OF).get(id) as { seq: number }
    connection.statement(REPLACE_PAYLOAD).run(payload, seq)
  }
  return { kind: 'applied', job: jobOfId(database, id) as Job }
}
