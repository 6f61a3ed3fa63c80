// The fences of claims, which must never be given twice. A claim is not flushed to the disk, so a
// power loss may undo the last claims: their jobs are queued again with their earlier fences, and
// their requests may have been sent. So fences are reserved in blocks by a flushed write. After a
// power loss, and in a copy of the file, all new fences are above those that were reserved before.
//
// The sequence number generators of databases reserve numbers in the same way.

import { existsSync, statSync } from 'node:fs'
import type { Database, Fences } from './connection.ts'
import { READ_META, WRITE_META } from './records.ts'

/** A job rarely has as many claims, so that a start of the machine needs one reservation. */
const BLOCK = 1_000
const KEY = 'fences'

interface Reservation {
  /** No fence above this one was given before the last power loss. */
  base: number
  /** Fences up to this one may be given. */
  limit: number
  /**
   * The instant of the start after the last power loss: claims from before may be undone. null:
   * there was none.
   */
  undoneUntil: number | null
}

interface StoredReservation extends Reservation {
  /** The start of the machine, and the file, for which it was made. */
  boot: number
  inode: number
}

/**
 * Whether the last process that had the file open has closed it. SQLite has then moved the log into
 * the file and flushed it, so that nothing was lost. Called before the file is opened, which
 * creates the log.
 */
export function wasClosed(path: string): boolean {
  return !existsSync(`${path}-wal`)
}

/** @param isWhole no write of the last start of the machine was lost */
export async function openFences(
  { connection, clock }: Pick<Database, 'connection' | 'clock'>,
  path: string,
  isWhole: boolean,
): Promise<Fences> {
  const inode = statSync(path).ino
  const read = () => {
    const row = connection.statement(READ_META).get({ key: KEY })
    return row === undefined ? null : (JSON.parse(row.value as string) as StoredReservation)
  }
  const isCurrent = (stored: StoredReservation) =>
    stored.inode === inode && stored.boot === clock.boot

  /** What is stored, unless it was made for another file or start of the machine. */
  function renewed(stored: StoredReservation | null): Reservation {
    if (stored === null) return { base: 0, limit: BLOCK, undoneUntil: null }
    if (isCurrent(stored)) return stored
    if (stored.inode === inode && isWhole) return stored
    return { base: stored.limit, limit: stored.limit + BLOCK, undoneUntil: clock.now() }
  }

  function write(reservation: Reservation): Reservation {
    const stored: StoredReservation = { ...reservation, boot: clock.boot, inode }
    connection.statement(WRITE_META).run({ key: KEY, value: JSON.stringify(stored) })
    return reservation
  }

  const found = await connection.read(read)
  let reservation: Reservation =
    found !== null && isCurrent(found)
      ? found
      : await connection.write('full', () => write(renewed(read())))

  return {
    after(fence) {
      const next = Math.max(fence, reservation.base) + 1
      return next <= reservation.limit ? next : null
    },
    async reserve() {
      reservation = await connection.write('full', () => {
        // Another process may have reserved a block meanwhile.
        const stored = read() as StoredReservation
        if (stored.limit > reservation.limit) return stored
        return write({ ...stored, limit: stored.limit + BLOCK })
      })
    },
    wasSent({ attemptCount, createdAt, firstRunAt }) {
      const { undoneUntil } = reservation
      if (attemptCount > 0 || undoneUntil === null) return attemptCount > 0
      return createdAt <= undoneUntil && firstRunAt <= undoneUntil
    },
    get undoneUntil() {
      return reservation.undoneUntil
    },
  }
}
