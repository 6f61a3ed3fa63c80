// Posts jobs to an API and receives their deliveries, in one process, so that one clock measures
// both ends of a job. It is the load and the sink at the same time, for both sides of a comparison.
//
// It first reports { url } of its sink. For an Order, it posts for the given seconds, waits for
// outstanding deliveries, and reports a Tally.
import { createServer } from 'node:http'
import { Pool } from 'undici'
import { JOB_BODY, MAX_LAG_MS, POSTING_CONNECTIONS } from './load.ts'

export interface Order {
  apiUrl: string
  seconds: number
  /**
   * Either at most this many posted and not yet received, as fast as that allows; or a rate, with
   * gaps from half to one and a half of the mean.
   */
  pace: { outstanding: number } | { perSecond: number }
}

export interface Tally {
  /** Accepted with 201. */
  accepted: number
  refused: number
  /** Different ids that were received. */
  delivered: number
  doubles: number
  /** Received no later than MAX_LAG_MS after their POST. */
  inTime: number
  /** The time from the first POST to the last delivery in time. */
  seconds: number
  /** From POST to sink, in ms. */
  p50LagMs: number
  p99LagMs: number
}

/** The deadline of outstanding deliveries after the last POST. */
const STRAGGLERS_DEADLINE_MS = 120_000
const LOOK_INTERVAL_MS = 20
const headers = { 'content-type': 'application/json' }

let arrivals = new Map<string, number>()
let doubles = 0
let awaitingArrival: (() => void)[] = []

const server = createServer((request, answer) => {
  const id = request.headers['webhook-id'] as string
  request.resume()
  request.on('end', () => {
    if (arrivals.has(id)) doubles += 1
    else arrivals.set(id, performance.now())
    answer.end()
    awaitingArrival.shift()?.()
  })
})
server.keepAliveTimeout = 60_000
server.listen(0, '127.0.0.1', () => {
  process.send?.({ url: `http://127.0.0.1:${(server.address() as { port: number }).port}/` })
})

process.on('message', async (order: Order) => process.send?.(await play(order)))
process.once('disconnect', () => process.exit(0))

async function play({ apiUrl, seconds, pace }: Order): Promise<Tally> {
  arrivals = new Map()
  doubles = 0
  awaitingArrival = []
  const posts = new Posts(apiUrl)
  const startedAtMs = performance.now()
  const endsAtMs = startedAtMs + seconds * 1_000
  if ('outstanding' in pace) await postClosed(posts, pace.outstanding, endsAtMs)
  else await postAtRate(posts, pace.perSecond, endsAtMs)
  await posts.settled()
  const giveUpAtMs = performance.now() + STRAGGLERS_DEADLINE_MS
  while (arrivals.size < posts.sentAtMs.size && performance.now() < giveUpAtMs) await pause()
  await posts.close()
  return tallyOf(posts, startedAtMs)
}

function tallyOf(posts: Posts, startedAtMs: number): Tally {
  const { sentAtMs, refused } = posts
  const lagsMs: number[] = []
  let inTime = 0
  let lastAtMs = startedAtMs
  for (const [id, atMs] of arrivals) {
    const sent = sentAtMs.get(id)
    if (sent === undefined) continue
    const lagMs = atMs - sent
    lagsMs.push(lagMs)
    if (lagMs > MAX_LAG_MS) continue
    inTime += 1
    lastAtMs = Math.max(lastAtMs, atMs)
  }
  lagsMs.sort((a, b) => a - b)
  const percentile = (share: number) => lagsMs[Math.floor((lagsMs.length - 1) * share)] ?? 0
  return {
    ...{ accepted: sentAtMs.size, refused, delivered: arrivals.size, doubles, inTime },
    seconds: (lastAtMs - startedAtMs) / 1_000,
    ...{ p50LagMs: percentile(0.5), p99LagMs: percentile(0.99) },
  }
}

/** The POSTs of an order. */
class Posts {
  /** When the POST of each accepted job was handed to undici. */
  readonly sentAtMs = new Map<string, number>()
  refused = 0
  #posted = 0
  #answered = 0
  readonly #pool: Pool

  constructor(apiUrl: string) {
    this.#pool = new Pool(apiUrl, { connections: POSTING_CONNECTIONS, pipelining: 1 })
  }

  /** Posted and not yet received, without refused ones. */
  get outstanding(): number {
    return this.#posted - this.refused - arrivals.size
  }

  /** undici's dispatch is its cheapest function. */
  post(): Promise<void> {
    const atMs = performance.now()
    this.#posted += 1
    let isAccepted = false
    let text = ''
    return new Promise((resolve, reject) => {
      this.#pool.dispatch(
        { path: '/jobs', method: 'POST', headers, body: JOB_BODY },
        {
          onRequestStart() {},
          onResponseStart: (_, status) => {
            isAccepted = status === 201
          },
          onResponseData: (_, chunk) => {
            text += chunk.toString('latin1')
          },
          onResponseEnd: () => {
            this.#answered += 1
            // The id comes first in the responses of both sides. Parsing the rest would cost CPU of
            // the load.
            const id = /"id":"([^"]+)"/.exec(text)?.[1]
            if (isAccepted && id !== undefined) this.sentAtMs.set(id, atMs)
            else this.refused += 1
            resolve()
          },
          onResponseError: (_, error) => reject(error),
        },
      )
    })
  }

  async settled(): Promise<void> {
    while (this.#answered < this.#posted) await pause()
  }

  close(): Promise<void> {
    return this.#pool.close()
  }
}

/** 64 loops; each waits while too many jobs are outstanding. */
async function postClosed(posts: Posts, maxOutstanding: number, endsAtMs: number): Promise<void> {
  async function postUntilEnd(): Promise<void> {
    while (performance.now() < endsAtMs) {
      if (posts.outstanding < maxOutstanding) await posts.post()
      else await nextArrival(endsAtMs)
    }
  }
  await Promise.all(Array.from({ length: POSTING_CONNECTIONS }, postUntilEnd))
}

/** Posts at a rate, whether or not the API keeps up: waiting for a connection counts as lag. */
async function postAtRate(posts: Posts, perSecond: number, endsAtMs: number): Promise<void> {
  const meanGapMs = 1_000 / perSecond
  let dueAtMs = performance.now()
  while (dueAtMs < endsAtMs) {
    const leftMs = dueAtMs - performance.now()
    if (leftMs > 0) await new Promise((resolve) => setTimeout(resolve, leftMs))
    void posts.post()
    dueAtMs += meanGapMs * (0.5 + Math.random())
  }
}

/** Also resolves at `endsAtMs`, because a lost job never arrives. */
function nextArrival(endsAtMs: number): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(resolve, Math.max(0, endsAtMs - performance.now()))
    awaitingArrival.push(() => {
      clearTimeout(timer)
      resolve()
    })
  })
}

const pause = () => new Promise((resolve) => setTimeout(resolve, LOOK_INTERVAL_MS))
