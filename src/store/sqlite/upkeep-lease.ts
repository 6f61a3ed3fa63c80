// Which process does the upkeep while no worker lives: one record, held by a lease.
import { latestUpkeepEnd, type UpkeepLease } from '../records.ts'
import { READ_META, WRITE_META } from './api-mode.ts'
import type { Database } from './database.ts'

const UPKEEP = 'upkeep'

export const DROP_META = 'delete from meta where key = ? and value = ?'

export async function takeUpkeep(
  { connection, clock }: Database,
  { holder, leaseMs }: UpkeepLease,
): Promise<boolean> {
  return connection.write('normal', () => {
    const now = clock.now()
    const row = connection.statement(READ_META).get(UPKEEP)
    const known = row === undefined ? null : (JSON.parse(row.value as string) as StoredLease)
    if (known !== null && known.holder !== holder && isValid(known, now, leaseMs)) return false
    const lease: StoredLease = { holder, expiresAt: now + leaseMs }
    connection.statement(WRITE_META).run(UPKEEP, JSON.stringify(lease))
    return true
  })
}

interface StoredLease {
  holder: string
  expiresAt: number
}

function isValid({ expiresAt }: StoredLease, now: number, leaseMs: number): boolean {
  return expiresAt > now && expiresAt <= latestUpkeepEnd(now, leaseMs)
}

export async function releaseUpkeep({ connection }: Database, holder: string): Promise<void> {
  await connection.write('normal', () => {
    const row = connection.statement(READ_META).get(UPKEEP)
    if (row === undefined) return
    const text = row.value as string
    if ((JSON.parse(text) as StoredLease).holder !== holder) return
    connection.statement(DROP_META).run(UPKEEP, text)
  })
}
