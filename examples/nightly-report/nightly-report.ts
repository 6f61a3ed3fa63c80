// Writes a report of each day's orders, every night at two o'clock in a time zone.
import { mkdirSync, renameSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { receive, type Work } from '../kit/deliveries.ts'
import { openLedger } from '../kit/ledger.ts'
import { posthorn, secret, serve } from '../kit/program.ts'
import { addSomeOrders, ordersOf, TABLES } from './orders.ts'

const TIMEZONE = process.env.TIMEZONE ?? 'Asia/Kolkata'
const DATA = process.env.DATA_DIR ?? join(import.meta.dirname, 'data')

const ledger = openLedger(join(DATA, 'orders.db'), TABLES)
addSomeOrders(ledger.db, new Date())

const report: Work<unknown> = async ({ jobId, fence, scheduledFor }) => {
  // The tick decides, not the clock: a late or repeated report is still of the same day.
  const day = dayBefore(dayOf(scheduledFor))
  const orders = ordersOf(ledger.db, (createdAt) => dayOf(createdAt) === day)
  const file = join(DATA, 'reports', `${day}.csv`)
  mkdirSync(join(DATA, 'reports'), { recursive: true })
  const lines = orders.map(({ id, createdAt, cents }) => `${id},${createdAt},${cents}\n`)
  writeFileSync(`${file}.${jobId}`, `order,createdAt,cents\n${lines.join('')}`)
  renameSync(`${file}.${jobId}`, file)
  const totalCents = orders.reduce((sum, { cents }) => sum + cents, 0)
  return ledger.finish(jobId, fence, { day, orders: orders.length, totalCents, file })
}

/** The date in the time zone, like 2026-11-24. */
function dayOf(instant: Date): string {
  return instant.toLocaleDateString('sv-SE', { timeZone: TIMEZONE })
}

/** Counts days, not hours: a day can have 23 or 25 hours. */
function dayBefore(day: string): string {
  const date = new Date(`${day}T00:00:00Z`)
  date.setUTCDate(date.getUTCDate() - 1)
  return date.toISOString().slice(0, 10)
}

await serve(
  (request, response) => receive(request, response, { secret, posthorn, ledger, work: report }),
  async (url) => {
    await posthorn.endpoints.put('nightly-report', { url, secret, timeout: '1m' })
    // Safe at every start: a schedule whose timing is unchanged keeps its next tick.
    const { nextRuns } = await posthorn.schedules.put('nightly-report', {
      cron: '0 2 * * *',
      timezone: TIMEZONE,
      endpoint: 'nightly-report',
      payload: {},
      // After a night without a worker, one report is made when a worker is back.
      misfire: 'once',
    })
    console.log(`next runs: ${nextRuns.join(', ')}`)
  },
)
