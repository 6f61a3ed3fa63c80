// Imports workbooks. After a kill it continues after the last row that is in the database.
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { receive, type Work } from '../kit/deliveries.ts'
import { openLedger } from '../kit/ledger.ts'
import { posthorn, secret, serve } from '../kit/program.ts'
import { type Item, itemsAfter } from './workbook.ts'

const DATA = process.env.DATA_DIR ?? join(import.meta.dirname, 'data')
/** The pause after each transaction, so that there is time to watch the import and to kill it. */
const PAUSE_MS = Number(process.env.PAUSE_MS ?? 50)
const ROWS_PER_TRANSACTION = 500
const HEARTBEAT_MS = 500

interface Upload {
  file: string
  /** The number of rows that the client gives. Only the progress depends on it. */
  rows: number
}

const ledger = openLedger(
  join(DATA, 'items.db'),
  `create table if not exists items (
     job_id text, row integer, sku text, name text, quantity integer, price_cents integer,
     fence integer, primary key (job_id, row)) without rowid`,
)
const lastRow = ledger.db.prepare('select max(row) as row from items where job_id = ?')
const count = ledger.db.prepare('select count(*) as rows from items where job_id = ?')
const insert = ledger.db.prepare('insert into items values (?, ?, ?, ?, ?, ?, ?)')

const importWorkbook: Work<Upload> = async ({ jobId, fence, payload }, reportProgress) => {
  const { row: after } = lastRow.get(jobId) as { row: number | null }
  let reportedAtMs = Number.NEGATIVE_INFINITY
  for await (const items of itemsAfter(pathOf(payload), after ?? 0, ROWS_PER_TRANSACTION)) {
    // The stored rows are the checkpoint. The transaction that writes them checks the fence.
    ledger.write(jobId, fence, () => enter(jobId, fence, items))
    if (performance.now() - reportedAtMs >= HEARTBEAT_MS) {
      reportedAtMs = performance.now()
      const row = items.at(-1)?.row ?? 0
      const progress = Math.min(100, Math.floor((100 * row) / payload.rows))
      await reportProgress({ progress, message: `row ${row}` })
    }
    await sleep(PAUSE_MS)
  }
  return ledger.finish(jobId, fence, count.get(jobId))
}

function enter(jobId: string, fence: number, items: Item[]): void {
  for (const { row, sku, name, quantity, priceCents } of items) {
    insert.run(jobId, row, sku, name, quantity, priceCents, fence)
  }
}

/** A name, never a path: a client that may enqueue must not read other files. */
function pathOf({ file }: Upload): string {
  if (/^[a-z0-9-]+\.xlsx$/.test(file)) return join(DATA, file)
  throw new Error('file must be the name of a workbook, like items.xlsx')
}

await serve(
  (request, response) =>
    receive(request, response, { secret, posthorn, ledger, work: importWorkbook }),
  (url) =>
    posthorn.endpoints.put('excel-import', {
      url,
      secret,
      completion: 'async',
      completionTimeout: process.env.COMPLETION_TIMEOUT ?? '30s',
      retry: { backoff: { type: 'exponential', delay: process.env.RETRY_DELAY ?? '1s' } },
    }),
)
