// Confirming an invoice: the request answers at once, and five jobs do what must follow.
import { readFileSync } from 'node:fs'
import type { IncomingMessage, ServerResponse } from 'node:http'
import { join } from 'node:path'
import { answer, receive } from '../kit/deliveries.ts'
import { openLedger } from '../kit/ledger.ts'
import { posthorn, secret, serve } from '../kit/program.ts'
import { startGovernment } from './government.ts'
import { type Invoice, invoiceFrom } from './invoice.ts'
import { startMailSink } from './mail-sink.ts'
import { createSteps } from './steps.ts'
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
      answer(response, 500, { error: String(error) })
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
  if (method === 'GET' && number !== undefined) return answer(response, 200, await stateOf(number))
  if (method === 'GET' && url === '/') {
    response.writeHead(200, { 'content-type': 'text/html; charset=utf-8' }).end(PAGE)
    return
  }
  answer(response, 404, { error: 'there is nothing here' })
}

/** Enqueues all that must follow in one request, and answers. */
async function confirm(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const startedAtMs = performance.now()
  const invoice = await invoiceFrom(request)
  if (typeof invoice === 'string') return answer(response, 400, { error: invoice })
  const items = await posthorn.enqueueBatch<Invoice>(
    steps.map(({ endpoint, after }) => ({
      endpoint,
      payload: invoice,
      dependsOn: after.map((name) => `#${steps.findIndex((one) => one.endpoint === name)}`),
      tags: [`invoice-${invoice.number}`],
      // Pressed twice, or sent again after a lost answer: the same five jobs.
      idempotencyKey: `invoice-${invoice.number}`,
    })),
  )
  const refused = items.find(({ error }) => error !== undefined)
  if (refused) return answer(response, refused.status, { error: refused.error?.detail })
  const jobs = items.map(({ id }, i) => [steps[i]?.endpoint, id])
  const tookMs = Math.round(performance.now() - startedAtMs)
  answer(response, 202, { invoice: invoice.number, jobs: Object.fromEntries(jobs), tookMs })
}

/** Where each step is, as Posthorn knows it. */
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
