// A proxy in front of the API that causes faults: cut connections, lost responses, HTML instead of
// a response, and leases that are lost while a worker reports.
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'

/**
 * `cut`: the request does not arrive. `lost_answer`: the request arrives, but its response does
 * not. `lost_lease`: another client cancels the job and queues it again just before the report. The
 * others are a status, with a page of the proxy or with a response like that of the API.
 */
export type Fault =
  | 'pass'
  | 'cut'
  | 'lost_answer'
  | 'lost_lease'
  | 'page_200'
  | 'page_400'
  | 'page_404'
  | 'page_500'
  | 'page_503'
  | 'unavailable'

/** What a request is for; `other`: neither a claim nor a report. */
export type Purpose = 'claim' | 'complete' | 'fail' | 'heartbeat' | 'other'

export interface FaultyProxy {
  url: string
  /** How often each fault was caused, as `complete cut`. */
  dealt: Map<string, number>
  /**
   * Sets the faults from the next request on: one for each request of a purpose, and then `pass`.
   */
  deal(faults: Partial<Record<Purpose, Fault[]>>): void
  /** The purposes that have faults left. */
  left(): Purpose[]
  close(): Promise<void>
}

/** @param apiUrl the URL may change: a restarted API listens elsewhere */
export async function startFaultyProxy(apiUrl: () => string): Promise<FaultyProxy> {
  let faults: Partial<Record<Purpose, Fault[]>> = {}
  const dealt = new Map<string, number>()

  async function answer(incoming: IncomingMessage, outgoing: ServerResponse): Promise<void> {
    const body = Buffer.concat(await incoming.toArray())
    const path = incoming.url ?? ''
    const purpose = purposeOf(path)
    const fault = faults[purpose]?.shift() ?? 'pass'
    const name = `${purpose} ${fault}`
    dealt.set(name, (dealt.get(name) ?? 0) + 1)
    if (fault === 'cut') return void incoming.socket.destroy()
    if (fault === 'unavailable') {
      const problem = { code: 'store_unavailable', detail: 'the store does not answer' }
      outgoing.writeHead(503, { 'content-type': 'application/problem+json', 'retry-after': '0' })
      return void outgoing.end(JSON.stringify(problem))
    }
    if (fault.startsWith('page_')) return page(outgoing, Number(fault.slice('page_'.length)))
    if (fault === 'lost_lease') await loseLease(apiUrl(), path)
    const { host: _, connection: __, 'content-length': ___, ...headers } = incoming.headers
    const real = await fetch(apiUrl() + path, {
      method: incoming.method ?? 'GET',
      headers: headers as Record<string, string>,
      ...(body.length === 0 ? {} : { body }),
    })
    const bytes = Buffer.from(await real.arrayBuffer())
    if (fault === 'lost_answer') return void incoming.socket.destroy()
    outgoing.writeHead(real.status, { 'content-type': real.headers.get('content-type') ?? '' })
    outgoing.end(bytes)
  }

  const server = createServer((incoming, outgoing) => {
    // A proxy responds in this way while the API is away.
    answer(incoming, outgoing).catch(() => page(outgoing, 502))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    dealt,
    deal(next) {
      faults = next
    },
    left: () => (Object.keys(faults) as Purpose[]).filter((one) => faults[one]?.length !== 0),
    async close() {
      server.closeAllConnections()
      await new Promise((resolve) => server.close(resolve))
    },
  }
}

function purposeOf(path: string): Purpose {
  const [, verb] = /\/(claim|complete|fail|heartbeat)(?:\?|$)/.exec(path) ?? []
  return (verb as Purpose | undefined) ?? 'other'
}

function page(outgoing: ServerResponse, status: number): void {
  if (outgoing.headersSent) return
  outgoing.writeHead(status, { 'content-type': 'text/html' })
  outgoing.end('<html><h1>It works!</h1></html>')
}

async function loseLease(apiUrl: string, path: string): Promise<void> {
  const [, id] = /\/jobs\/([^/]+)\//.exec(path) ?? []
  for (const verb of ['cancel', 'retry']) {
    await fetch(`${apiUrl}/jobs/${id}/${verb}`, { method: 'POST' })
  }
}
