// Held jobs: those that wait for other jobs or for the turn of their ordering key. A job is judged
// by reading alone; what the judgement leads to is written under the guards of its event.

import { dependencyFailed } from '../../job/attempt.ts'
import { checkDependencies } from '../../job/dependencies.ts'
import { type Database, tellEnd } from './connection.ts'
import { guardOf, IN_ORDER } from './guards.ts'
import { failureValues, finishQueuedAs, listText, parsed } from './job-row.ts'
import { stateOf } from './jobs.ts'

export const HELD_COLUMNS = 'seq, id, endpoint, ordering_key, waiting_for'

export const HELD_BY_SEQ = `select ${HELD_COLUMNS} from jobs where seq = ? and held = 1`
export const HELD_BY_ID = `select ${HELD_COLUMNS} from jobs where id = ? and held = 1`

/** The earliest of its ordering key that is not final. */
export const HEAD_OF_KEY = `
select ${HELD_COLUMNS}, held from jobs
where ${IN_ORDER} and endpoint = ? and ordering_key = ? order by seq limit 1`
export const TURN_OF_KEY = `
select seq, state from jobs where turn is not null and endpoint = ? and turn = ?`

export const ADD_DEPENDENCY = `
insert into dependencies (dependency, dependent) values (?, ?) on conflict do nothing`
export const MARK_DEPENDED_ON = `
update jobs set has_dependents = 1 where id = ? and has_dependents = 0`

/** Parameters: now (twice), seq. */
export const PROMOTE = `
update jobs set held = 0, recheck = 0, turn = ordering_key, due_at = max(run_at, ?),
  promoted_at = ?,
  version = version + 1
where seq = ? and ${guardOf('promote')}`
/** A later one of the key, when an earlier is queued again: it was not begun, or waits to be. */
export const HOLD_AGAIN = `
update jobs set held = 1, turn = null, version = version + 1
where seq = ? and state = 'queued' and turn is not null`
/** Parameters: finished at, reason, message, what it still waited for, seq. */
export const FAIL_DEPENDENT = `
update jobs set ${finishQueuedAs('dead')}, failure_reason = ?,
  failure_message = ?, waiting_for = ?
where seq = ? and ${guardOf('fail_dependent')}`
export const WAIT_FOR = `
update jobs set waiting_for = ?, recheck = 0 where seq = ? and held = 1`

export interface HeldRow {
  seq: number
  id: string
  endpoint: string
  ordering_key: string | null
  waiting_for: string | null
}

export type Judgement =
  | { kind: 'waits' }
  /** Of what it waited for some is done, not all; or all, but it is not its turn. */
  | { kind: 'waits_for_less'; unmet: string[] }
  | { kind: 'fails'; failed: string; unmet: string[] }
  | { kind: 'ready' }

/** In the transaction that read their states: their finish comes after, and finds the mark. */
export function waitForFinishOf({ connection }: Database, ids: string[], dependent: string): void {
  for (const id of ids) {
    connection.statement(ADD_DEPENDENCY).run(id, dependent)
    connection.statement(MARK_DEPENDED_ON).run(id)
  }
}

export function judge(database: Database, row: HeldRow): Judgement {
  const waitingFor = parsed<string[]>(row.waiting_for, [])
  const { unmet, failed } = checkDependencies(waitingFor, (id) => stateOf(database, id))
  if (failed !== null) return { kind: 'fails', failed, unmet }
  const mayGoOn = unmet.length === 0
  if (mayGoOn && (row.ordering_key === null || turnIsFree(database, row))) return { kind: 'ready' }
  return unmet.length < waitingFor.length ? { kind: 'waits_for_less', unmet } : { kind: 'waits' }
}

function turnIsFree({ connection }: Database, { seq, endpoint, ordering_key }: HeldRow): boolean {
  const head = connection.statement(HEAD_OF_KEY).get(endpoint, ordering_key)
  if (head?.seq !== seq) return false
  return connection.statement(TURN_OF_KEY).get(endpoint, ordering_key)?.state !== 'running'
}

/** Checks and writes. The caller is in a transaction and runs the finish effects. */
export function resolveHeld(database: Database, row: HeldRow): Judgement['kind'] {
  const judgement = judge(database, row)
  switch (judgement.kind) {
    case 'waits':
      return judgement.kind
    case 'waits_for_less':
      waitFor(database, row, judgement.unmet)
      return judgement.kind
    case 'fails':
      return failDependent(database, row, judgement) ? judgement.kind : 'waits'
    case 'ready':
      waitFor(database, row, [])
      return promote(database, row) ? judgement.kind : 'waits'
    default:
      throw new Error(`unknown judgement ${(judgement satisfies never as Judgement).kind}`)
  }
}

/** Gives the turn of the key to the job that is due for it; answers what became of that job. */
export function passTurn(
  database: Database,
  endpoint: string,
  orderingKey: string,
): Judgement['kind'] {
  const head = database.connection.statement(HEAD_OF_KEY).get(endpoint, orderingKey)
  if (head === undefined || head.held === 0) return 'waits'
  return resolveHeld(database, head as unknown as HeldRow)
}

/** An earlier job of the key is queued again: a later one that is not running loses its turn. */
export function holdLaterOne(
  { connection }: Database,
  seq: number,
  endpoint: string,
  orderingKey: string,
): void {
  const holder = connection.statement(TURN_OF_KEY).get(endpoint, orderingKey)
  if (holder === undefined || (holder.seq as number) <= seq) return
  connection.statement(HOLD_AGAIN).run(holder.seq as number)
}

function promote(database: Database, { seq, endpoint, ordering_key }: HeldRow): boolean {
  const { connection, clock, watch } = database
  if (ordering_key !== null) holdLaterOne(database, seq, endpoint, ordering_key)
  const now = clock.now()
  const { changes } = connection.statement(PROMOTE).run(now, now, seq)
  if (changes === 1) watch.stir()
  return changes === 1
}

function waitFor({ connection }: Database, row: HeldRow, unmet: string[]): void {
  const text = listText(unmet)
  if (text !== row.waiting_for) connection.statement(WAIT_FOR).run(text, row.seq)
}

function failDependent(
  database: Database,
  row: HeldRow,
  { failed, unmet }: Extract<Judgement, { kind: 'fails' }>,
): boolean {
  const { connection, clock } = database
  const failure = dependencyFailed(failed)
  const { changes } = connection
    .statement(FAIL_DEPENDENT)
    .run(clock.now(), ...failureValues(failure), listText(unmet), row.seq)
  if (changes === 0) return false
  const { id: jobId, endpoint } = row
  tellEnd(database, { jobId, endpoint, attempt: null, diedOf: failure.reason })
  return true
}

export function headOfOrderingKey(
  { connection }: Database,
  endpoint: string,
  orderingKey: string,
): Promise<string | null> {
  return connection.read(() => {
    const row = connection.statement(HEAD_OF_KEY).get(endpoint, orderingKey)
    return row === undefined ? null : (row.id as string)
  })
}
