// The fences of claims, which must never be given twice. A claim is not flushed to the disk, so a
// power loss may undo the last claims: their jobs are queued again with their earlier fences, and
// their requests may have been sent. So fences are reserved in blocks by a flushed write. After a
// power loss, and in a copy of the file, all new fences are above those that were reserved before.
//
// The sequence number generators of databases reserve numbers in the same way.

import { statSync } from 'node:fs'
import type { Database, Fences } from './connection.ts'
import { READ_META, WRITE_META } from './records.ts'

/** A job rarely has as many claims, so that a start of the machine needs one reservation. */
const BLOCK = 1_000
const KEY = 'fences'
/** The file of a copy that `posthorn backup` has made, which counts as a copy wherever it is. */
const NO_FILE = ''
/** Fences after a loss count seconds from here, so that they fit into 31 bits for decades. */
const SECONDS_SINCE = Date.UTC(2026, 0)

interface Reservation {
  /** No fence above this one was given before the last power loss. */
  base: number
  /** Fences up to this one may be given. */
  limit: number
  /** Which claims the last power loss may have undone; null: there was none. */
  undone: { seq: number; until: number } | null
}

/** A start of the machine, and a file. */
interface Opener {
  boot: number
  /** The inode: a double does not hold each number of each file system. */
  file: string
  /**
   * When the file was created, because the inode of a removed file is given to the next one. null:
   * not known.
   */
  born: string | null
}

/** With the opener for which it was made. */
interface StoredReservation extends Reservation, Opener {
  /**
   * How many processes have opened the file since that start and have not closed it. 0: each has
   * closed it, and that write was not lost, so none was. The log of SQLite does not prove that:
   * another program that opens the file after a power loss removes it.
   */
  openCount: number
}

type Parts = Pick<Database, 'connection' | 'clock'>

/** Registers this process. Called before its first claim. */
export async function openFences({ connection, clock }: Parts, path: string): Promise<Fences> {
  const opener = { boot: clock.boot, ...identify(path) }
  let reservation = await connection.write<Reservation>('full', () => {
    const stored = read(connection)
    const opened = openedBy(opener, stored, () => undoneBy({ connection, clock }, stored))
    return write(connection, opened)
  })
  let wanted = 0

  return {
    after(fence) {
      const next = Math.max(fence, reservation.base) + 1
      if (next <= reservation.limit) return next
      wanted = Math.max(wanted, next)
      return null
    },
    get isShort() {
      return wanted > reservation.limit
    },
    async reserve() {
      reservation = await connection.write('full', () => {
        // Another process may have reserved a block meanwhile.
        const stored = read(connection) as StoredReservation
        if (stored.limit >= wanted) return stored
        return write(connection, { ...stored, limit: wanted + BLOCK })
      })
    },
    wasSent({ attemptCount, seq, firstRunAt }) {
      const { undone } = reservation
      if (attemptCount > 0 || undone === null) return attemptCount > 0
      return seq <= undone.seq && firstRunAt <= undone.until
    },
    get undone() {
      const { seq: undoneSeq, until: undoneUntil } = reservation.undone ?? { seq: 0, until: 0 }
      return { undoneSeq, undoneUntil }
    },
    noteClose() {
      const stored = read(connection)
      if (stored === null || !isSameFile(stored, opener) || stored.boot !== opener.boot) return
      write(connection, { ...stored, openCount: Math.max(0, stored.openCount - 1) })
    },
  }
}

function read({ statement }: Database['connection']): StoredReservation | null {
  const row = statement(READ_META).get({ key: KEY })
  return row === undefined ? null : JSON.parse(row.value as string)
}

function write(
  { statement }: Database['connection'],
  stored: StoredReservation,
): StoredReservation {
  statement(WRITE_META).run({ key: KEY, value: JSON.stringify(stored) })
  return stored
}

function identify(path: string): Pick<Opener, 'file' | 'born'> {
  const { ino, birthtimeNs, ctimeNs } = statSync(path, { bigint: true })
  // Where the system does not say when a file was created, Node returns its last change.
  return { file: String(ino), born: birthtimeNs === ctimeNs ? null : String(birthtimeNs) }
}

function isSameFile(one: Opener, other: Opener): boolean {
  const mayBeSame = one.born === null || other.born === null || one.born === other.born
  return one.file === other.file && mayBeSame
}

/** @param undone called only if claims may be undone */
function openedBy(
  opener: Opener,
  stored: StoredReservation | null,
  undone: () => NonNullable<Reservation['undone']>,
): StoredReservation {
  if (stored === null) return { base: 0, limit: BLOCK, undone: null, ...opener, openCount: 1 }
  const isSame = isSameFile(stored, opener)
  if (isSame && (stored.boot === opener.boot || stored.openCount === 0)) {
    const openCount = stored.boot === opener.boot ? stored.openCount + 1 : 1
    return { ...stored, ...opener, born: opener.born ?? stored.born, openCount }
  }
  const base = Math.max(stored.limit, secondsNow())
  return { base, limit: base + BLOCK, undone: undone(), ...opener, openCount: 1 }
}

/**
 * The store of which this file is a copy may have reserved more since, and so may a disk of which
 * this one is a snapshot. They have then given smaller fences, unless they claimed one job more
 * often than once a second.
 */
function secondsNow(): number {
  return Math.floor((Date.now() - SECONDS_SINCE) / 1_000)
}

/** Instants of before the loss count, too: the clock of the machine may start with an earlier time. */
const LAST_SEQ = 'select seq, created_at from jobs order by seq desc limit 1'
const LAST_SEEN = 'select max(seen_at) as seen_at from workers'

function undoneBy({ connection, clock }: Parts, stored: Reservation | null) {
  const last = connection.statement(LAST_SEQ).get()
  const seen = connection.statement(LAST_SEEN).get()
  const instants = [last?.created_at, seen?.seen_at, stored?.undone?.until].map(Number)
  return {
    seq: Number(last?.seq ?? 0),
    until: Math.max(clock.now(), ...instants.filter(Number.isFinite)),
  }
}

/** Called on a copy that no process has open. */
export const MARK_COPY = `
update meta set value = json_set(value, '$.file', '${NO_FILE}') where key = '${KEY}'`
