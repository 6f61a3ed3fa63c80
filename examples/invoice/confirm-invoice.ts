// Confirms an invoice: the request gets its response at once, and five jobs do the work.
import { readFileSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { join } from 'node:path'
import { receive, respond } from '../kit/deliveries.ts'
import { openLedger } from '../kit/ledger.ts'
import { posthorn, secret, serve } from '../kit/program.ts'
import { startGovernment } from './government.ts'
import { type Invoice, invoiceFrom } from './invoice.ts'
import { startMailSink } from './mail-sink.ts'
import { createSteps, type Step } from './steps.ts'
import { TABLES } from './works.ts'

const PAGE = readFileSync(join(import.meta.dirname, 'page.html'))

const dataFolder = process.env.DATA_DIR ?? join(import.meta.dirname, 'data')
const governmentUrl = await startGovernment({
  delayMs: Number(process.env.GOVERNMENT_DELAY_MS ?? 15_000),
  failures: Number(process.env.GOVERNMENT_FAILURES ?? 1),
})
const place = { dataFolder, governmentUrl, mailPort: await startMailSink() }
const ledger = openLedger(join(dataFolder, 'ledger.db'), TABLES)
const steps = createSteps(ledger, place, process.env.RETRY_DELAY ?? '5s')

await serve(
  async (request, response) => {
    try {
      await route(request, response)
    } catch (error) {
      console.error(error)
      respond(response, 500, { error: String(error) })
    }
  },
  (baseUrl) =>
    Promise.all(
      steps.map(({ endpoint, settings }) =>
        posthorn.endpoints.put(endpoint, { ...settings, secret, url: `${baseUrl}/do/${endpoint}` }),
      ),
    ),
)

async function route(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const { method, url = '/' } = request
  const step = steps.find(({ endpoint }) => url === `/do/${endpoint}`)
  if (method === 'POST' && step !== undefined) {
    return receive(request, response, { secret, posthorn, ledger, work: step.work })
  }
  if (method === 'POST' && url === '/confirm') return confirm(request, response)
  const number = /^\/invoices\/(\d{1,9})$/.exec(url)?.[1]
  if (method === 'GET' && number !== undefined) return respond(response, 200, await stateOf(number))
  if (method === 'GET' && url === '/') {
    response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' }).end(PAGE)
    return
  }
  respond(response, 404, { error: 'not found' })
}

/** Enqueues the five jobs in one request, and responds. */
async function confirm(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const startedAtMs = performance.now()
  const invoice = await invoiceFrom(request)
  if (typeof invoice === 'string') return respond(response, 400, { error: invoice })
  const items = await posthorn.enqueueBatch<Invoice>(
    steps.map(({ endpoint, needs, after = [] }) => ({
      endpoint,
      payload: invoice,
      ...(needs === undefined ? {} : { needs: needsOf(needs) }),
      dependsOn: after.map(itemOf),
      tags: [`invoice-${invoice.number}`],
      // If the button is pressed twice, or a lost response repeated, these are the same five jobs.
      idempotencyKey: `invoice-${invoice.number}`,
    })),
  )
  const refused = items.find(({ error }) => error !== undefined)
  if (refused) return respond(response, refused.status, { error: refused.error?.detail })
  const jobs = items.map(({ id }, i) => [steps[i]?.endpoint, id])
  const tookMs = Math.round(performance.now() - startedAtMs)
  respond(response, 202, { invoice: invoice.number, jobs: Object.fromEntries(jobs), tookMs })
}

/** How an item of a batch names an earlier one. */
function itemOf(endpoint: string): string {
  return `#${steps.findIndex((one) => one.endpoint === endpoint)}`
}

function needsOf(needs: NonNullable<Step['needs']>) {
  return Object.fromEntries(
    Object.entries(needs).map(([name, { of, pointer }]) => [
      name,
      `${itemOf(of)}/result${pointer}`,
    ]),
  )
}

/** The state of each step, read from Posthorn. */
async function stateOf(number: string): Promise<object[]> {
  const { items } = await posthorn.page({ tag: `invoice-${number}`, limit: steps.length })
  const jobs = await Promise.all(items.map(({ id }) => posthorn.get(id)))
  return steps.flatMap(({ endpoint, title }) => {
    const job = jobs.find((one) => one.endpoint === endpoint)
    if (job === undefined) return []
    const { id, state, attemptCount, progress, result, failure } = job
    return [{ id, endpoint, title, state, attemptCount, progress, result, failure }]
  })
}
