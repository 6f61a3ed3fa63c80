// A stand-in for a government API for e-invoices, which is slow and fails at first; and its client.
import { createHash } from 'node:crypto'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { respond } from '../kit/deliveries.ts'

const CALL_DEADLINE_MS = 120_000

/** Takes `delayMs` for an e-invoice, and responds with 503 to the first `failures` of them. */
export async function startGovernment(how: { delayMs: number; failures: number }): Promise<string> {
  let failuresLeft = how.failures
  const numbers = new Map<string, string>()
  const server = createServer(async (request, response) => {
    request.resume()
    const key = `${request.url} ${request.headers['idempotency-key']}`
    if (request.url === '/e-invoices') await sleep(how.delayMs)
    if (request.url === '/e-invoices' && failuresLeft > 0) {
      failuresLeft -= 1
      console.log('government: is out of order')
      return respond(response, 503, {})
    }
    if (!numbers.has(key)) {
      console.log(`government: accepts ${key}`)
      numbers.set(key, createHash('sha256').update(key).digest('hex').slice(0, 16))
    }
    respond(response, 200, { number: numbers.get(key) })
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** Returns the number that the government assigns. The same key always gets the same number. */
export async function register(url: string, key: string, document: object): Promise<string> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'idempotency-key': key },
    body: JSON.stringify(document),
    signal: AbortSignal.timeout(CALL_DEADLINE_MS),
  })
  if (!response.ok) throw new Error(`the government responded with ${response.status}`)
  return ((await response.json()) as { number: string }).number
}
