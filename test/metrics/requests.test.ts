// The metrics of requests match what clients counted: every response once, by its status, including
// requests without a route.
import { expect, test } from 'vitest'
import { answersIn, exchange } from '../hostile/raw-http.ts'
import { useServedApp } from '../support/served-app.ts'

const served = useServedApp({ maxBodyBytes: 4_096, limits: { pendingUnauthenticated: 8 } })

/** The counts so far, by this label. The request for the metrics itself is not counted yet. */
async function counted(name: string, label: string): Promise<Record<string, number>> {
  const text = await (await fetch(`${served.url}/metrics`)).text()
  const sums: Record<string, number> = {}
  for (const [, labels = '', value] of text.matchAll(
    new RegExp(`^${name}\\{(.*)\\} (.+)$`, 'gm'),
  )) {
    const key = new RegExp(`${label}="([^"]*)"`).exec(labels)?.[1] as string
    sums[key] = (sums[key] ?? 0) + Number(value)
  }
  return sums
}

const HOST = 'Host: localhost'
const REQUESTS: [what: string, bytes: string][] = [
  ['a read', `GET /health/live HTTP/1.1\r\n${HOST}\r\nConnection: close\r\n\r\n`],
  ['an unknown path', `GET /nowhere HTTP/1.1\r\n${HOST}\r\nConnection: close\r\n\r\n`],
  ['a path that is no URL', `GET /%zz HTTP/1.1\r\n${HOST}\r\nConnection: close\r\n\r\n`],
  ['an unknown method', `BREW / HTTP/1.1\r\n${HOST}\r\nConnection: close\r\n\r\n`],
  ['no HTTP at all', 'hello\r\n\r\n'],
  ['a header beyond 16 KiB', `GET / HTTP/1.1\r\n${HOST}\r\nA: ${'a'.repeat(20_000)}\r\n\r\n`],
  ['CONNECT', `CONNECT a.example:443 HTTP/1.1\r\n${HOST}\r\n\r\n`],
  [
    'a good one and a malformed one behind it',
    `GET /health/live HTTP/1.1\r\n${HOST}\r\n\r\nhello\r\n\r\n`,
  ],
  [
    'a body in broken chunks',
    `POST /jobs HTTP/1.1\r\n${HOST}\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n`,
  ],
  [
    'a body that is too large',
    `POST /jobs HTTP/1.1\r\n${HOST}\r\nContent-Type: application/json\r\nContent-Length: 9999\r\nConnection: close\r\n\r\n`,
  ],
  ['more than may be asked at once', `GET /openapi.json HTTP/1.1\r\n${HOST}\r\n\r\n`.repeat(60)],
]

test.each(REQUESTS)('%s', async (_, bytes) => {
  const before = await counted('posthorn_http_requests_total', 'status')
  const seen: Record<string, number> = {}
  for (const { status } of answersIn(await exchange(served.url, bytes))) {
    seen[status] = (seen[status] ?? 0) + 1
  }
  expect(Object.keys(seen).length).toBeGreaterThan(0)
  // Each request for the metrics gets a response, too, which those metrics do not include.
  const wanted = { ...before, 200: (before['200'] ?? 0) + 1 } as Record<string, number>
  for (const [status, count] of Object.entries(seen)) wanted[status] = (wanted[status] ?? 0) + count
  expect(await counted('posthorn_http_requests_total', 'status')).toEqual(wanted)
})

test('what came to no route is counted with its method, where that is a common one', async () => {
  const before = await counted('posthorn_http_requests_total', 'method')
  const ask = (line: string) =>
    exchange(served.url, `${line} HTTP/1.1\r\n${HOST}\r\nConnection: close\r\n\r\n`)
  for (const line of ['DELETE /nowhere', 'DELETE /%zz', 'BREW /']) await ask(line)
  const after = await counted('posthorn_http_requests_total', 'method')
  expect(after.DELETE).toBe((before.DELETE ?? 0) + 2)
  expect(after.other).toBe((before.other ?? 0) + 1)
})

test('jobs are counted whichever request enqueued them', async () => {
  const ask = async (method: string, path: string, body?: object, headers = {}) => {
    const answer = await fetch(served.url + path, {
      method,
      headers: { 'content-type': 'application/json', ...headers },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
    return (await answer.json()) as { id: string }
  }
  await ask('PUT', '/endpoints/pulled', { url: null })
  const job = { endpoint: 'pulled', payload: 1 }
  const first = await ask('POST', '/jobs', job, { 'idempotency-key': 'one' })
  await ask('POST', '/jobs', job, { 'idempotency-key': 'one' })
  await ask('POST', '/jobs/batch', { jobs: [job, job] })
  await ask('POST', `/jobs/${first.id}/copy`)
  await ask('PUT', '/schedules/daily', { cron: '0 0 1 1 *', endpoint: 'pulled', payload: 1 })
  await ask('POST', '/schedules/daily/run')
  const { items } = (await ask('GET', '/jobs?limit=100')) as unknown as { items: object[] }
  expect(items).toHaveLength(5)
  expect(await counted('posthorn_enqueued_jobs_total', 'result')).toEqual({
    inserted: 5,
    existing: 1,
  })
})
