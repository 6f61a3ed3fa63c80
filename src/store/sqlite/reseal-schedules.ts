// At the start, what was sealed with an older key is sealed with the one that seals now, so that
// the older one can be taken out of ENCRYPTION_KEY without any schedule being lost.
import type { Database } from './database.ts'

/** Read, and sealed, in one go: nobody waits longer for it than for a batch of jobs. */
const SCHEDULES_AT_ONCE = 500

/** Parameters: name, limit. */
export const SEALED_SETTINGS = `
select name, settings from schedules where name > ? order by name limit +?`
/** The guard: what was opened is what is stored. */
export const RESEAL_SETTINGS = 'update schedules set settings = ? where name = ? and settings = ?'

interface SealedRow {
  name: string
  settings: string
}

export async function resealSchedules(database: Database): Promise<void> {
  const { connection } = database
  let last: SealedRow | undefined = { name: '', settings: '' }
  while (last !== undefined) {
    const after: string = last.name
    const rows = await connection.read(
      () =>
        connection
          .statement(SEALED_SETTINGS)
          .all(after, SCHEDULES_AT_ONCE) as unknown as SealedRow[],
    )
    await reseal(database, rows)
    last = rows.length === SCHEDULES_AT_ONCE ? rows.at(-1) : undefined
  }
}

async function reseal({ connection, keys, unreadable }: Database, rows: SealedRow[]) {
  const resealed = rows.flatMap(({ name, settings }) => {
    if (keys.isCurrent(settings)) return []
    const plain = unreadable.openOrNote(name, () => keys.open(settings, name))
    return plain === null ? [] : [[keys.seal(plain, name), name, settings]]
  })
  if (resealed.length === 0) return
  await connection.write('full', () => {
    for (const values of resealed) connection.statement(RESEAL_SETTINGS).run(...values)
  })
}
