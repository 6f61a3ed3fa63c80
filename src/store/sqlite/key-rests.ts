// The rests of fairness keys: what attempts report of a key, and what ends the rests of all keys of
// an endpoint. A claim parks a key that rests (key-limits.ts).
import type { FairnessKey } from '../../endpoint/key-limits.ts'
import { type KeyHealthReport, type KeyRest, keyRestAfter } from '../../endpoint/key-rest.ts'
import type { Database } from './connection.ts'
import { ENDPOINT_FOR_KEY, findKey } from './fairness-keys.ts'
import { applyKeyLimits } from './key-limits.ts'
import { wakeParked } from './turns.ts'

export const SET_REST = `
insert into fairness_keys (endpoint, key, rest, rest_kept_until)
values ($endpoint, $key, $rest, $keptUntil)
on conflict do update set rest = excluded.rest, rest_kept_until = excluded.rest_kept_until`
export const DROP_REST = `
update fairness_keys set rest = null, rest_kept_until = null
where endpoint = $endpoint and key = $key and rest is not null`
export const DROP_RESTS = `
update fairness_keys set rest = null, rest_kept_until = null
where endpoint = $endpoint and rest is not null`

export async function reportKeyHealth(
  database: Database,
  reports: KeyHealthReport[],
): Promise<void> {
  if (reports.length === 0) return
  const { connection, notifier } = database
  await connection.write('normal', () => {
    for (const report of reports) {
      const { endpoint } = report
      const isKnown = connection.statement(ENDPOINT_FOR_KEY).get({ endpoint }) !== undefined
      if (isKnown) applyReport(database, report)
    }
  })
  if (reports.some(({ succeeded }) => succeeded.length > 0)) notifier.notifyWork()
}

function applyReport(database: Database, report: KeyHealthReport): void {
  const stored = findKey(database, report.endpoint, report.key)?.rest ?? null
  const rest = keyRestAfter(stored, report, database.clock.now())
  if (stored === null && rest === null) return
  setRest(database, report, rest)
  // The key recovers, and may have room.
  if (report.succeeded.length > 0) wakeParked(database, report)
}

export function setRest(
  { connection }: Database,
  { endpoint, key }: FairnessKey,
  rest: KeyRest | null,
): void {
  if (rest === null) connection.statement(DROP_REST).run({ endpoint, key })
  else {
    const { keptUntil } = rest
    connection.statement(SET_REST).run({ endpoint, key, rest: JSON.stringify(rest), keptUntil })
  }
}

/** Ends the rests of all keys of the endpoint, within a transaction. */
export function endRests(database: Database, endpoint: string): void {
  const { changes } = database.connection.statement(DROP_RESTS).run({ endpoint })
  if (changes > 0) applyKeyLimits(database, endpoint)
}
