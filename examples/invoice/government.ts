// A stand-in of a government's API for e-invoices, slow and failing at first; and how to call it.
import { createHash } from 'node:crypto'
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { setTimeout as sleep } from 'node:timers/promises'
import { answer } from '../kit/deliveries.ts'

const CALL_DEADLINE_MS = 120_000

/** Takes `delayMs` for an e-invoice, and answers 503 to the first `failures` of them. */
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
      return answer(response, 503, {})
    }
    if (!numbers.has(key)) {
      console.log(`government: accepts ${key}`)
      numbers.set(key, createHash('sha256').update(key).digest('hex').slice(0, 16))
    }
    answer(response, 200, { number: numbers.get(key) })
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

/** The number that the government gives; the same key again is the same number. */
export async function register(url: string, key: string, document: object): Promise<string> {
  const response = await fetch(url, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'idempotency-key': key },
    body: JSON.stringify(document),
    signal: AbortSignal.timeout(CALL_DEADLINE_MS),
  })
  if (!response.ok) throw new Error(`the government answered ${response.status}`)
  return ((await response.json()) as { number: string }).number
}
