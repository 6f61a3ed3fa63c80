// The client of a fault run. It repeats each request until there is a response, and logs each try.
import { setTimeout as sleep } from 'node:timers/promises'
import { Pool } from 'undici'
import { type Call, type CallKind, type NeedFacts, nowMs, type Sighting } from './history.ts'
import { hashOf, type Plan, payloadText } from './work-payload.ts'

export interface WorkRequest extends Plan {
  endpoint?: string
  delayMs?: number
  /** Text that makes the payload larger. */
  padding?: string
  /** Further fields of POST /jobs. */
  fields?: object
  /** The results that the job needs, by name. */
  needed?: Record<string, Omit<NeedFacts, 'name'>>
}

export interface Accepted {
  id: string
  workNumber: number
}

export interface Answer {
  status: number
  headers: Record<string, string | string[] | undefined>
  // biome-ignore lint/suspicious/noExplicitAny: a round reads any field of a response
  body: any
}

export interface WorkClient {
  /** The URL of the API, for code that calls it without this client. */
  url: string
  apiKey: string
  calls: Call[]
  sightings: Sighting[]
  /**
   * Enqueues a job. It is repeated with its key until there is a 2xx: after 503, 429 and a missing
   * response.
   */
  enqueue(work?: WorkRequest): Promise<Accepted>
  /** Enqueues jobs in batches. Each batch is repeated as a whole. */
  enqueueMany(count: number, workOf: (index: number) => WorkRequest): Promise<Accepted[]>
  /** Sends a command once; null: no response. */
  command(kind: 'cancel' | 'retry' | 'delete', job: Accepted): Promise<Answer | null>
  /** Reads the state of a job; null: no response. */
  look(id: string): Promise<Answer | null>
  /** Sends any other request, once and without a log; null: no response. */
  request(method: string, path: string, body?: unknown, headers?: object): Promise<Answer | null>
  /** Responses that were kept for the search for secrets, shortened. */
  answers: string[]
  close(): Promise<void>
}

const CONNECTIONS = 64
const ANSWER_DEADLINE_MS = 15_000
const REPEAT_AFTER_MS = 20
/** Longer than any outage of a round. */
const GIVE_UP_AFTER_MS = 120_000
const BATCH_SIZE = 500
const KEPT_ANSWERS = 2_000

function needsField(needs: NeedFacts[]) {
  if (needs.length === 0) return {}
  const path = ({ jobId, isPart }: NeedFacts) => `${jobId}${isPart ? '/result/number' : ''}`
  return { needs: Object.fromEntries(needs.map((one) => [one.name, path(one)])) }
}

export function createWorkClient(url: string, apiKey: string): WorkClient {
  const pool = new Pool(url, { connections: CONNECTIONS, bodyTimeout: 0, headersTimeout: 0 })
  const calls: Call[] = []
  const sightings: Sighting[] = []
  const answers: string[] = []
  let nextWorkNumber = 1

  async function request(method: string, path: string, body?: unknown, headers: object = {}) {
    try {
      const answer = await pool.request({
        method: method as 'GET',
        path,
        headers: {
          authorization: `Bearer ${apiKey}`,
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          ...headers,
        },
        body: body === undefined ? null : typeof body === 'string' ? body : JSON.stringify(body),
        signal: AbortSignal.timeout(ANSWER_DEADLINE_MS),
      })
      const text = await answer.body.text()
      if (answers.length < KEPT_ANSWERS) answers.push(text)
      const isJson = /json/.test(String(answer.headers['content-type']))
      const parsed = isJson && text !== '' ? JSON.parse(text) : text
      return { status: answer.statusCode, headers: answer.headers, body: parsed }
    } catch {
      // Whatever the error is, the client does not know the effect of its request.
      return null
    }
  }

  /** Repeats until the response is acceptable; `log` writes each time into the calls. */
  async function persist(
    send: () => Promise<Answer | null>,
    log: (sentAtMs: number, answer: Answer | null) => void,
  ): Promise<Answer> {
    const giveUpAtMs = nowMs() + GIVE_UP_AFTER_MS
    while (nowMs() < giveUpAtMs) {
      const sentAtMs = nowMs()
      const answer = await send()
      log(sentAtMs, answer)
      if (answer !== null && answer.status < 500 && answer.status !== 429) return answer
      await sleep(REPEAT_AFTER_MS)
    }
    throw new Error(`no answer within ${GIVE_UP_AFTER_MS} ms of repeating`)
  }

  function draft(request: WorkRequest) {
    const { endpoint = 'work', delayMs = 0, padding, fields = {}, needed = {}, ...plan } = request
    const workNumber = nextWorkNumber++
    const payload = payloadText(workNumber, plan, padding)
    const idempotencyKey = `work-${workNumber}`
    const { group: groupId = null } = fields as { group?: string }
    const needs = Object.entries(needed).map(([name, one]) => ({ name, ...one }))
    const more = {
      endpoint,
      ...(delayMs > 0 ? { delay: `${delayMs}ms` } : {}),
      ...needsField(needs),
      ...fields,
    }
    const envelope = JSON.stringify(more).slice(1, -1)
    return {
      workNumber,
      // The text is written by hand, because the promise is about the bytes of the payload.
      text: (key: boolean) =>
        `{${envelope}${key ? `,"idempotencyKey":"${idempotencyKey}"` : ''},"payload":${payload}}`,
      idempotencyKey,
      call: (sentAtMs: number, status: number | null, jobId: string | null): Call => ({
        ...{ kind: 'enqueue' as CallKind, sentAtMs, endedAtMs: nowMs(), status, jobId, endpoint },
        ...{ workNumber, idempotencyKey, bodyHash: hashOf(payload), delayMs, groupId, needs },
      }),
    }
  }

  async function enqueueBatch(drafts: ReturnType<typeof draft>[]): Promise<Accepted[]> {
    const text = `{"jobs":[${drafts.map((one) => one.text(true)).join(',')}]}`
    const answer = await persist(
      () => request('POST', '/jobs/batch', text),
      (sentAtMs, got) => {
        for (const [i, one] of drafts.entries()) {
          const item = got?.status === 200 ? got.body.items[i] : null
          const status = got === null ? null : (item?.status ?? got.status)
          calls.push(one.call(sentAtMs, status, item?.id ?? null))
        }
      },
    )
    const items: { id?: string; status: number }[] = answer.body.items ?? []
    const refused = items.find(({ status }) => status < 500 && status >= 300)
    if (refused || items.length !== drafts.length) {
      throw new Error(`not accepted: ${JSON.stringify(refused ?? answer)}`)
    }
    const accepted = new Map(items.map(({ id }, i) => [drafts[i]?.workNumber, id]))
    // Items that a slow store did not write in time are sent again.
    const left = drafts.filter(({ workNumber }) => accepted.get(workNumber) === undefined)
    const later = left.length === 0 ? [] : await enqueueBatch(left)
    for (const { id, workNumber } of later) accepted.set(workNumber, id)
    return drafts.map(({ workNumber }) => ({ id: accepted.get(workNumber) as string, workNumber }))
  }

  return {
    url,
    apiKey,
    calls,
    sightings,
    answers,
    request,
    async enqueue(work = {}) {
      const one = draft(work)
      const headers = { 'idempotency-key': one.idempotencyKey }
      const answer = await persist(
        () => request('POST', '/jobs', one.text(false), headers),
        (sentAtMs, got) =>
          calls.push(one.call(sentAtMs, got?.status ?? null, got?.body?.id ?? null)),
      )
      if (answer.body.id === undefined) throw new Error(`not accepted: ${answer.status}`)
      return { id: answer.body.id, workNumber: one.workNumber }
    },
    async enqueueMany(count, workOf) {
      const accepted: Accepted[] = []
      for (let from = 0; from < count; from += BATCH_SIZE) {
        const size = Math.min(BATCH_SIZE, count - from)
        const drafts = Array.from({ length: size }, (_, i) => draft(workOf(from + i)))
        accepted.push(...(await enqueueBatch(drafts)))
      }
      return accepted
    },
    async command(kind, { id, workNumber }) {
      const sentAtMs = nowMs()
      const method = kind === 'delete' ? 'DELETE' : 'POST'
      const answer = await request(method, `/jobs/${id}${kind === 'delete' ? '' : `/${kind}`}`)
      calls.push({
        ...{ kind, sentAtMs, endedAtMs: nowMs(), status: answer?.status ?? null, jobId: id },
        ...{
          endpoint: '',
          workNumber,
          idempotencyKey: null,
          bodyHash: '',
          delayMs: 0,
          groupId: null,
          needs: [],
        },
      })
      return answer
    },
    async look(id) {
      const sentAtMs = nowMs()
      const answer = await request('GET', `/jobs/${id}`)
      if (answer?.status === 200) {
        const { state, fence } = answer.body
        sightings.push({ jobId: id, sentAtMs, endedAtMs: nowMs(), state, fence })
      }
      return answer
    },
    close: () => pool.destroy(),
  }
}

/** Repeats a request until it has succeeded, or until it is refused because it is done. */
export async function untilSucceeded(
  send: () => Promise<Answer | null>,
  isDone: () => Promise<boolean> = async () => false,
): Promise<Answer> {
  for (const giveUpAtMs = nowMs() + GIVE_UP_AFTER_MS; nowMs() < giveUpAtMs; ) {
    const answer = await send()
    if (answer !== null && answer.status < 300) return answer
    if (answer !== null && answer.status < 500) {
      if (answer.status !== 409) throw new Error(JSON.stringify(answer))
      if (await isDone()) return answer
    }
    await sleep(REPEAT_AFTER_MS)
  }
  throw new Error('a request was not answered')
}
