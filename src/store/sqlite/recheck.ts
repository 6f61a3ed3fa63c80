// The sweeper's look at held jobs. No wake-up is relied on: those that were forgotten are found on
// the way round, whoever forgot them.
import { type FinishEffects, NO_EFFECTS, sumEffects } from '../../job/finish-effects.ts'
import { runAftermath } from './aftermath.ts'
import type { Database } from './database.ts'
import { HELD_BY_SEQ, HELD_COLUMNS, type HeldRow, judge, resolveHeld } from './held.ts'

/** So many of those that nothing is known against; a look costs some microseconds each. */
const RECHECKS_PER_SWEEP = 200

/** Those that an enqueue has marked. Parameter: limit. */
export const MARKED = `
select ${HELD_COLUMNS} from jobs where recheck = 1 order by seq limit +?`
/** From where the last look ended, in the same endpoint. Parameters: endpoint, seq, limit. */
export const HELD_NEXT = `
select ${HELD_COLUMNS} from jobs where held = 1 and endpoint = ? and seq > ? order by seq limit +?`
/** And in those beyond: two queries, for a comparison of pairs would seek by endpoint alone. */
export const HELD_BEYOND = `
select ${HELD_COLUMNS} from jobs where held = 1 and endpoint > ? order by endpoint, seq limit +?`

export const UNMARK = 'update jobs set recheck = 0 where seq = ? and recheck = 1'

export async function recheckHeld(database: Database, limit: number): Promise<FinishEffects> {
  const { connection } = database
  const found = await connection.read(() => lookAround(database, limit))
  if (found.length === 0) return NO_EFFECTS
  return connection.write('normal', () => {
    const counts = { ...NO_EFFECTS }
    for (const seq of found) {
      const held = connection.statement(HELD_BY_SEQ).get(seq) as HeldRow | undefined
      const became = held === undefined ? 'waits' : resolveHeld(database, held)
      if (became === 'ready') counts.promoted++
      if (became === 'fails') counts.dependentsFailed++
      // What it depends on may be queued again: then its finish decides.
      connection.statement(UNMARK).run(seq)
    }
    return sumEffects([counts, runAftermath(database)])
  })
}

/** Of those that were marked, and of the next on the way round, the ones that may move on. */
function lookAround(database: Database, limit: number): number[] {
  const { connection, rechecks } = database
  const marked = connection.statement(MARKED).all(limit) as unknown as HeldRow[]
  const part = Math.min(limit, RECHECKS_PER_SWEEP)
  const { endpoint, seq } = rechecks
  const next = connection.statement(HELD_NEXT).all(endpoint, seq, part)
  next.push(...connection.statement(HELD_BEYOND).all(endpoint, part - next.length))
  const round = next as unknown as HeldRow[]
  const last = round.length < part ? undefined : round.at(-1)
  rechecks.endpoint = last?.endpoint ?? ''
  rechecks.seq = last?.seq ?? 0
  const moving = round.filter((row) => judge(database, row).kind !== 'waits')
  return [...new Set([...marked, ...moving].map(({ seq }) => seq))]
}
