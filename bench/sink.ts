// The receiver of the benchmark, a process of its own: answers 200 and counts who came.
import { createServer } from 'node:http'

const seen = new Map<string, number>()
let firstAtMs = 0
let waiting: { count: number; seen: () => void } | null = null

const server = createServer((request, answer) => {
  const id = request.headers['webhook-id'] as string
  request.resume()
  request.on('end', () => {
    if (seen.size === 0) firstAtMs = performance.now()
    seen.set(id, (seen.get(id) ?? 0) + 1)
    answer.end()
    if (waiting !== null && seen.size >= waiting.count) waiting.seen()
  })
})
server.keepAliveTimeout = 60_000
server.listen(0, '127.0.0.1', () => {
  process.send?.({ port: (server.address() as { port: number }).port })
})

process.on('message', ({ expect }: { expect: number }) => {
  const tell = () => {
    waiting = null
    process.send?.({
      seconds: (performance.now() - firstAtMs) / 1000,
      distinct: seen.size,
      doubles: [...seen.values()].filter((count) => count > 1).length,
    })
    seen.clear()
  }
  waiting = { count: expect, seen: tell }
  if (seen.size >= expect) tell()
})
