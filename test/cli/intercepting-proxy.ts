// A server between the command and the API. It passes requests on unless a test says otherwise.
import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'

export interface InterceptingProxy {
  url: string
  close(): void
}

/**
 * @param look called before a request is passed on; if it returns a status, that is the response
 */
export async function startInterceptingProxy(
  apiUrl: () => string,
  look: (method: string, path: string) => Promise<number | undefined>,
): Promise<InterceptingProxy> {
  const server = createServer(async (request, answer) => {
    const body = Buffer.concat(await request.toArray())
    const { method = '', url: path = '' } = request
    const status = await look(method, path)
    if (status !== undefined) {
      answer.writeHead(status, { 'retry-after': '0', 'content-type': 'application/problem+json' })
      answer.end(JSON.stringify({ code: 'store_unavailable', detail: 'the store is busy' }))
      return
    }
    const headers = Object.entries(request.headers).filter(([name]) => PASSED_ON.includes(name))
    const real = await fetch(apiUrl() + path, {
      method,
      headers: headers as [string, string][],
      ...(body.length > 0 ? { body } : {}),
    })
    answer.writeHead(real.status, { 'content-type': real.headers.get('content-type') ?? '' })
    answer.end(await real.text())
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  return {
    url: `http://127.0.0.1:${(server.address() as AddressInfo).port}`,
    close() {
      server.closeAllConnections()
      server.close()
    },
  }
}

const PASSED_ON = ['content-type', 'if-match', 'if-none-match', 'idempotency-key', 'authorization']
