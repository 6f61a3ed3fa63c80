// The inputs of jobs: they are made from the results of the jobs that a job needs, in the
// transaction that unblocks it, and stored apart like its payload. Until then a row of
// needed_results keeps each needed job from being purged or deleted.
import { type MadeInputs, makeInputs, type Need } from '../../job/needs.ts'
import type { Database } from './connection.ts'
import type { JobRow } from './job-row.ts'

export const NEEDED_JOB = 'select state, result, result_truncated from jobs where id = $id'
/** Those that the job has, or had before it was retried. */
export const INPUTS_OF_SEQ = 'select bytes from inputs where seq = $seq'
export const INPUTS_OF = `
select bytes from inputs
where seq = (select seq from jobs where id = $id and inputs_bytes is not null)`

export const STORE_INPUTS = `
insert into inputs (seq, bytes) values ($seq, $inputs)
on conflict (seq) do update set bytes = $inputs`
export const NOTE_INPUTS = 'update jobs set inputs_bytes = $inputsBytes where seq = $seq'

export const KEEP_NEEDED = `
insert into needed_results (needed, dependent) values ($id, $dependent) on conflict do nothing`
/** A waiting job that needs the result of this one. */
export const NEEDED_BY = 'select dependent from needed_results where needed = $id limit 1'

export const INPUTS_BYTES_OF = 'select inputs_bytes from jobs where seq = $seq'

const BYTES_PER_STEP = 65_536

/** The caller has found that the needed jobs have ended. */
export function makeInputsOf(database: Database, seq: number, needs: Need[]): MadeInputs {
  const { connection } = database
  const before = connection.statement(INPUTS_OF_SEQ).get({ seq })
  return makeInputs(
    needs,
    (id) => {
      const row = connection.statement(NEEDED_JOB).get({ id }) as NeededRow | undefined
      if (row === undefined) return null
      const { state, result, result_truncated } = row
      return { state, result, resultTruncated: result_truncated === 1 }
    },
    before === undefined ? null : (before.bytes as Uint8Array),
  )
}

type NeededRow = Pick<JobRow, 'state' | 'result' | 'result_truncated'>

export function storeInputs(
  { connection }: Database,
  seq: number | bigint,
  inputs: Uint8Array,
): void {
  connection.statement(STORE_INPUTS).run({ seq, inputs })
  connection.statement(NOTE_INPUTS).run({ seq, inputsBytes: inputs.byteLength })
}

/** From now on the needed jobs are not purged: the trigger jobs_unblocked ends that. */
export function keepNeeded({ connection }: Database, dependent: string, needs: Need[]): void {
  for (const { jobId: id } of needs) connection.statement(KEEP_NEEDED).run({ id, dependent })
}

/**
 * How many more steps of a transaction the inputs of this job count as, so that a transaction that
 * unblocks many jobs ends soon.
 */
export function inputSteps({ connection }: Database, seq: number): number {
  const row = connection.statement(INPUTS_BYTES_OF).get({ seq })
  return Math.floor(Number(row?.inputs_bytes ?? 0) / BYTES_PER_STEP)
}

export function getInputs({ connection }: Database, id: string): Promise<Uint8Array | null> {
  return connection.read(() => {
    const row = connection.statement(INPUTS_OF).get({ id })
    return row === undefined ? null : (row.bytes as Uint8Array)
  })
}
