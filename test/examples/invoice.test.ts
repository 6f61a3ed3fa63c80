// The example of the confirmed invoice: a request that gets its response at once, and five later
// steps.
import { execFile } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { promisify } from 'node:util'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { newSecret, signedHeaders } from '../client/signed.ts'
import { findChromium, startChromium } from '../support/chromium.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { until } from '../support/until.ts'
import { INSTALLED_WITHIN_MS, installExamples } from './installed.ts'
import { blocksOf, type Program, ROOT, startProgram } from './program.ts'

const INVOICE = {
  number: 42,
  customer: 'Asha Traders',
  email: 'asha@example.com',
  amountCents: 125_000,
}
const SECRET = newSecret()
const STEPS = ['invoice-pdf', 'e-invoice', 'e-way-bill', 'invoice-mail', 'accounting']

const CHROMIUM = findChromium()

interface Shown {
  id: string
  endpoint: string
  state: string
}

let posthorn: Deployment
let program: Program
let folder: string
beforeAll(async () => {
  await installExamples()
  folder = mkdtempSync(join(tmpdir(), 'posthorn-invoice-'))
  posthorn = deploy('sqlite')
  await posthorn.startApi()
  const start = blocksOf('invoice/README.md').find((block) => block.includes('npm start'))
  program = await startProgram(start as string, {
    POSTHORN_URL: posthorn.url(),
    POSTHORN_SECRET: SECRET,
    DATA_DIR: folder,
    GOVERNMENT_DELAY_MS: '300',
    GOVERNMENT_FAILURES: '2',
    RETRY_DELAY: '100ms',
  })
}, INSTALLED_WITHIN_MS)
afterAll(async () => {
  await program?.stop()
  await posthorn?.close()
  rmSync(folder, { recursive: true, force: true })
})

const send = (invoice: object) =>
  fetch(`${program.url}/confirm`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify(invoice),
  })
const shown = async (): Promise<Shown[]> =>
  (await (await fetch(`${program.url}/invoices/${INVOICE.number}`)).json()) as Shown[]
const printedCount = (text: string) => program.printed().split(text).length - 1

function entries(): unknown[] {
  const db = new DatabaseSync(join(folder, 'ledger.db'), { readOnly: true })
  try {
    return db.prepare('select account, cents, e_invoice from entries where invoice = 42').all()
  } finally {
    db.close()
  }
}

describe('an invoice that is confirmed', () => {
  it('gets a response before any step has run, and twice with the same five jobs', async () => {
    // No worker runs yet, so no response can have waited for one.
    const first = await send(INVOICE)
    expect(first.status).toBe(202)
    const { jobs } = (await first.json()) as { jobs: Record<string, string> }
    expect(Object.keys(jobs)).toEqual(STEPS)
    expect(((await (await send(INVOICE)).json()) as { jobs: object }).jobs).toEqual(jobs)
    expect((await shown()).map(({ endpoint, state }) => [endpoint, state])).toEqual(
      STEPS.map((endpoint) => [endpoint, 'queued']),
    )
  })

  it('has each step done once, though the government fails twice', async () => {
    await posthorn.startWorker()
    await until(async () => (await shown()).every(({ state }) => state === 'succeeded'), 40_000)
    const jobs = new Map<string, Awaited<ReturnType<Deployment['job']>>>()
    for (const { id, endpoint } of await shown()) {
      jobs.set(endpoint, await posthorn.job(id, 'succeeded'))
    }
    const outcomes = jobs.get('e-invoice').attempts.map((one: { outcome: string }) => one.outcome)
    expect(outcomes).toEqual(['failed', 'failed', 'succeeded'])
    expect(jobs.get('e-invoice').progress.message).toMatch(/^with the government for \d+ s$/)
    for (const endpoint of STEPS.filter((one) => one !== 'e-invoice')) {
      expect(jobs.get(endpoint).attemptCount, endpoint).toBe(1)
    }

    expect(Date.parse(jobs.get('e-way-bill').startedAt)).toBeGreaterThanOrEqual(
      Date.parse(jobs.get('e-invoice').finishedAt),
    )
    const eInvoice = jobs.get('e-invoice').result.number
    expect(jobs.get('e-way-bill').result.eInvoice).toBe(eInvoice)
    expect(Date.parse(jobs.get('accounting').startedAt)).toBeGreaterThanOrEqual(
      Date.parse(jobs.get('invoice-mail').finishedAt),
    )
    const { body: given } = await posthorn.request(
      'GET',
      `/jobs/${jobs.get('invoice-mail').id}/inputs`,
    )
    expect(given.inputs).toEqual({
      pdf: 'invoice-42.pdf',
      eInvoice,
      eWayBill: jobs.get('e-way-bill').result.number,
    })
    expect(printedCount('government: is out of order')).toBe(2)
    expect(printedCount('government: accepts /e-invoices')).toBe(1)
    expect(printedCount('government: accepts /e-way-bills')).toBe(1)
    const mail = `mail: to ${INVOICE.email}, "Invoice 42", attached: invoice-42.pdf`
    expect(printedCount('mail: to')).toBe(1)
    expect(program.printed()).toContain(mail)
    expect(readFileSync(join(folder, 'invoice-42.pdf')).subarray(0, 5).toString()).toBe('%PDF-')
    expect(entries()).toEqual([
      { account: 'receivables', cents: 125_000, e_invoice: eInvoice },
      { account: 'revenue', cents: -125_000, e_invoice: eInvoice },
    ])
  })

  it('is not booked again by a delivery that is repeated or late', async () => {
    const { id } = (await shown()).find(({ endpoint }) => endpoint === 'accounting') as Shown
    const body = JSON.stringify({ payload: INVOICE, inputs: { eInvoice: '1' } })
    const deliver = (fence: number, secret = SECRET) => {
      const headers = { ...signedHeaders(secret, body, { id }), 'posthorn-fence': String(fence) }
      return fetch(`${program.url}/do/accounting`, { method: 'POST', headers, body })
    }
    const repeated = await deliver(3)
    expect([repeated.status, await repeated.json()]).toEqual([200, { booked: '1250.00' }])
    expect((await deliver(1)).status).toBe(409)
    expect((await deliver(4, newSecret())).status).toBe(401)
    expect(entries()).toHaveLength(2)
  })

  it('is refused when its number was confirmed with another amount', async () => {
    const answer = await send({ ...INVOICE, amountCents: 1 })
    expect(answer.status).toBe(422)
    expect(((await answer.json()) as { error: string }).error).toContain('another')
  })

  it('is confirmed by the lines of the page, too', async () => {
    const lines = blocksOf('invoice/README.md').find((block) => block.includes('curl')) as string
    const script = lines.replaceAll('localhost:3000', program.url)
    const { stdout } = await promisify(execFile)('bash', ['-ec', script], { cwd: ROOT })
    const [confirmed, steps] = stdout
      .trim()
      .split('\n')
      .map((text) => JSON.parse(text))
    expect(confirmed).toMatchObject({ invoice: 43, tookMs: expect.any(Number) })
    expect(steps.map(({ id }: Shown) => id)).toEqual(Object.values(confirmed.jobs))
  })

  it.skipIf(CHROMIUM === null)(
    'is confirmed on a page that shows each step',
    async () => {
      const browser = await startChromium(CHROMIUM as string)
      try {
        const page = await browser.newPage()
        const complaints: string[] = []
        page.on('pageerror', (error) => complaints.push(String(error)))
        page.on('console', (line) => line.type() === 'error' && complaints.push(line.text()))
        await page.goto(program.url)
        await page.getByLabel('Number').fill('44')
        await page.getByRole('button').click()
        await page.getByText(/^Invoice 44 is confirmed\. The response took \d+ ms\.$/).waitFor()
        await page
          .getByRole('cell', { name: 'succeeded' })
          .nth(STEPS.length - 1)
          .waitFor()
        const titles = await page.locator('tbody td:first-child').allTextContents()
        const expected = ['PDF', 'E-invoice', 'E-way bill', 'E-mail', 'Accounting entries']
        expect([titles, complaints]).toEqual([expected, []])
      } finally {
        await browser.close()
      }
    },
    60_000,
  )

  it.each([
    [{ ...INVOICE, number: 0 }, 'number'],
    [{ ...INVOICE, amountCents: 1.5 }, 'amountCents'],
    [{ ...INVOICE, customer: 'a\nb' }, 'customer'],
    [{ ...INVOICE, email: 'a@b.example, c@d.example' }, 'email'],
    [{ ...INVOICE, more: 'x'.repeat(20_000) }, 'longer'],
  ])('is refused with a sentence when it is wrong: %#', async (invoice, word) => {
    const answer = await send(invoice)
    expect(answer.status).toBe(400)
    expect(((await answer.json()) as { error: string }).error).toContain(word)
  })
})
