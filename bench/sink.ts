// The receiver of the benchmark, a process of its own: answers 200 and counts who came.
//
// Asked { expect: n }, it tells when n different ids have come since it was asked last:
// { seconds, distinct, doubles }, and with { arrivals: true } when each came, by the clock that all
// processes of a machine share.
import { createServer } from 'node:http'

interface Order {
  expect: number
  arrivals?: boolean
}

const seen = new Map<string, { count: number; atMs: number }>()
/** Paths that are never answered, for as long as the sender waits. */
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
