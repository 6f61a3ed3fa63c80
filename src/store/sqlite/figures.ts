// Figures: what ended at each endpoint within each minute, added up by all workers.
import {
  MAX_FIGURES_READ,
  MINUTE_MS,
  minuteOf,
  refuseTooMany,
  wholeMinutes,
} from '../minute-figures.ts'
import { FIGURES_KEPT_MS, type FiguresRead, type MinuteFigures } from '../records.ts'
import type { Database } from './database.ts'

/** More than an add can make, so that the table shrinks again after a burst. */
const FORGOTTEN_PER_ADD = 1_000

export const FIGURES_OF = `
select succeeded, failed, durations from figures where minute = ? and endpoint = ?`
export const WRITE_FIGURES = `
insert or replace into figures (minute, endpoint, succeeded, failed, durations)
values (?, ?, ?, ?, ?)`
/** Parameters: the first minute that is kept, limit. */
export const FORGET_FIGURES = `
delete from figures where (minute, endpoint) in (
  select minute, endpoint from figures where minute < ? limit +?)`
/** Parameters: the first minute, limit. */
export const FIGURES_SINCE = `
select minute, endpoint, succeeded, failed, durations from figures
where minute >= ? order by minute desc, endpoint desc limit +?`

interface FiguresRow {
  minute: number
  endpoint: string
  succeeded: number
  failed: number
  /** JSON. */
  durations: string
}

/**
 * In one transaction. One that was not answered did not commit, so that a repetition needs no look
 * at what is stored.
 */
export async function addFigures(database: Database, figures: MinuteFigures[]): Promise<void> {
  refuseTooMany(figures)
  if (figures.length === 0) return
  const { connection, clock } = database
  await connection.write('normal', () => {
    for (const one of figures) add(database, one)
    const firstKept = clock.now() - FIGURES_KEPT_MS
    connection.statement(FORGET_FIGURES).run(firstKept, FORGOTTEN_PER_ADD)
  })
}

function add({ connection }: Database, figures: MinuteFigures): void {
  const { minute, endpoint } = figures
  const stored = connection.statement(FIGURES_OF).get(minute, endpoint) as FiguresRow | undefined
  const before: number[] = stored === undefined ? [] : JSON.parse(stored.durations)
  const durations = figures.durations.map((count, i) => count + (before[i] ?? 0))
  connection
    .statement(WRITE_FIGURES)
    .run(
      minute,
      endpoint,
      figures.succeeded + (stored?.succeeded ?? 0),
      figures.failed + (stored?.failed ?? 0),
      JSON.stringify(durations),
    )
}

export function figuresSince(
  database: Database,
  instant: number,
  endpoint: string | null,
): Promise<FiguresRead> {
  const { connection } = database
  return connection.read(() => {
    if (endpoint !== null) return figuresOfOne(database, instant, endpoint)
    const rows = connection
      .statement(FIGURES_SINCE)
      .all(minuteOf(instant), MAX_FIGURES_READ + 1) as unknown as FiguresRow[]
    return wholeMinutes(rows.map((row) => ({ ...row, durations: JSON.parse(row.durations) })))
  })
}

/** A seek for each minute that is kept: what other endpoints did is not read. */
function figuresOfOne(
  { connection, clock }: Database,
  instant: number,
  endpoint: string,
): FiguresRead {
  const now = clock.now()
  const statement = connection.statement(FIGURES_OF)
  const figures: MinuteFigures[] = []
  const first = minuteOf(Math.max(instant, now - FIGURES_KEPT_MS))
  for (let minute = first; minute <= now; minute += MINUTE_MS) {
    const row = statement.get(minute, endpoint) as FiguresRow | undefined
    if (row === undefined) continue
    const { succeeded, failed, durations } = row
    figures.push({ minute, endpoint, succeeded, failed, durations: JSON.parse(durations) })
  }
  return { figures, more: false }
}
