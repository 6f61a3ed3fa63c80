// The receiver of the benchmark, a process of its own: responds with 200 and counts ids.
//
// For { expect: n }, it reports when n different ids have come since the last order: { seconds,
// distinct, doubles }, and with { arrivals: true } also the time of each arrival, by the clock that
// all processes of a machine share.
import { createServer } from 'node:http'

interface Order {
  expect: number
  arrivals?: boolean
}

const seen = new Map<string, { count: number; atMs: number }>()
/** Requests to these paths never get a response. */
const HANGING = '/hang'
let order: Order | null = null

const nowMs = () => Number(process.hrtime.bigint()) / 1e6

const server = createServer((request, answer) => {
  const id = request.headers['webhook-id'] as string
  request.resume()
  if (request.url === HANGING) return
  request.on('end', () => {
    const before = seen.get(id)
    if (before) before.count += 1
    else seen.set(id, { count: 1, atMs: nowMs() })
    answer.end()
    if (order !== null && seen.size >= order.expect) tell(order)
  })
})
server.keepAliveTimeout = 60_000
server.listen(0, '127.0.0.1', () => {
  process.send?.({ port: (server.address() as { port: number }).port })
})

process.on('message', (next: Order) => {
  order = next
  if (seen.size >= next.expect) tell(next)
})

function tell({ arrivals = false }: Order): void {
  order = null
  const times = [...seen.values()].map(({ atMs }) => atMs)
  process.send?.({
    seconds:
      (times.reduce((a, b) => Math.max(a, b)) - times.reduce((a, b) => Math.min(a, b))) / 1_000,
    distinct: seen.size,
    doubles: [...seen.values()].filter(({ count }) => count > 1).length,
    arrivals: arrivals ? [...seen].map(([id, { atMs }]) => [id, atMs]) : [],
  })
  seen.clear()
}

process.once('disconnect', () => process.exit(0))
