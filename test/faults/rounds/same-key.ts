// Fifty identical enqueues are sent at once with one key, single and in batches, while the API may
// be killed. They become one job, which is delivered once.
import { setTimeout as sleep } from 'node:timers/promises'
import type { Fixture } from '../fixture.ts'
import { nowMs } from '../history.ts'
import { BOTH, type Round, SLOW_STORE } from '../round.ts'
import { hashOf, payloadText } from '../work-payload.ts'

const SINGLES = 30
/** How many batches: identical jobs also meet within a batch. */
const BATCHES = 4
const BATCH_SIZE = 5
const ASKED = SINGLES + BATCHES * BATCH_SIZE
const SHORT_ROUNDS = { sqlite: 30, mongo: 10 }
const LONG_ROUNDS = 1_000
/** In one of this many rounds the API is killed in the middle. */
const KILL_ONE_IN = { short: 10, long: 20 }
/** The first kill comes between the first request and the last response. */
const KILL_WITHIN_MS = 40
/**
 * If a kill came too late, the next one comes after half of that time, and the last one at once.
 */
const MOST_MORE_ROUNDS = 7
const REPEAT_AFTER_MS = 20
const GIVE_UP_AFTER_MS = 60_000
/** Larger than all work numbers of the client. */
const FIRST_WORK_NUMBER = 1_000_000_000

const AT_ONCE = 'fifty sent before the first response'
const API_KILLED = 'the API killed with some of them unanswered'
const ANSWER_LOST = 'the answer that made the job was lost'

export const sameKey: Round = {
  name: 'same-key',
  title: 'fifty identical enqueues at once, the API killed among them',
  engines: BOTH,
  isAlone: true,
  settings: { pollMs: 50 },
  settingsOf: { mongo: { ...SLOW_STORE, pollMs: 50 } },
  windows: [AT_ONCE, API_KILLED],
  async play(fixture, { isLong }) {
    await fixture.startWorker()
    const rounds = isLong ? LONG_ROUNDS : SHORT_ROUNDS[fixture.engine]
    const killOneIn = isLong ? KILL_ONE_IN.long : KILL_ONE_IN.short
    const ids = new Map<string, number>()
    let killWithinMs = KILL_WITHIN_MS
    let isMet = false
    for (let i = 0; i < rounds || (!isMet && i < rounds + MOST_MORE_ROUNDS); i++) {
      // The kill is in the last round of each stretch, so that even the shortest run has one.
      const isKilled = i >= rounds || i % killOneIn === killOneIn - 1
      const played = await playOnce(fixture, FIRST_WORK_NUMBER + i, isKilled ? killWithinMs : null)
      ids.set(played.id, 0)
      if (played.isInTime) isMet = true
      else if (isKilled) killWithinMs /= 2
    }
    await fixture.drained()
    expectOneDelivery(fixture, ids)
    fixture.measure('D10', `rounds of ${ASKED} identical enqueues`, ids.size)
  },
}

/** The response to one of the fifty requests. */
interface Reply {
  id: string
  status: number
  deduplicated: boolean
}

/**
 * Returns the job that the fifty requests became, and whether the API was killed before it had
 * responded to all.
 * @param killWithinMs null: the API is not killed
 */
async function playOnce(fixture: Fixture, workNumber: number, killWithinMs: number | null) {
  let answeredCount = 0
  let isInTime = false
  const asked = { workNumber, onAnswered: () => answeredCount++ }
  const sent = [
    ...Array.from({ length: SINGLES }, () => persist(fixture, asked, 1, askOne)),
    ...Array.from({ length: BATCHES }, () => persist(fixture, asked, BATCH_SIZE, askBatch)),
  ]
  fixture.hit(AT_ONCE, answeredCount === 0 ? 1 : 0)
  if (killWithinMs !== null) {
    await sleep(fixture.random.between(0, Math.floor(killWithinMs)))
    await fixture.kill(fixture.api())
    isInTime = answeredCount < SINGLES + BATCHES
    fixture.hit(API_KILLED, isInTime ? 1 : 0)
    await fixture.startApi()
  }
  const replies = (await Promise.all(sent)).flat()
  check(fixture, replies, killWithinMs !== null)
  await expectRefusal(fixture, workNumber)
  return { id: (replies[0] as Reply).id, isInTime }
}

function check(fixture: Fixture, replies: Reply[], isKilled: boolean): void {
  const ids = new Set(replies.map(({ id }) => id))
  if (ids.size !== 1) fixture.complain(`${ids.size} ids for one key: ${[...ids].join(', ')}`)
  const made = replies.filter(({ status }) => status === 201).length
  if (isKilled && made === 0) fixture.hit(ANSWER_LOST)
  if (made > 1 || (made === 0 && !isKilled)) fixture.complain(`${made} of ${ASKED} got a 201`)
  const odd = replies.filter(
    ({ status, deduplicated }) => ![200, 201].includes(status) || (status === 200) !== deduplicated,
  )
  if (odd.length > 0) fixture.complain(`unexpected for a repeated key: ${JSON.stringify(odd[0])}`)
}

type Asked = { workNumber: number; onAnswered: () => void }
type Ask = (
  fixture: Fixture,
  workNumber: number,
) => Promise<{ status: number; replies: Reply[] } | null>

const keyOf = (workNumber: number) => `same-${workNumber}`
const textOf = (workNumber: number, more = '') =>
  `{"endpoint":"work"${more},"payload":${payloadText(workNumber, {})}}`

const askOne: Ask = async ({ client }, workNumber) => {
  const key = { 'idempotency-key': keyOf(workNumber) }
  const answer = await client.request('POST', '/jobs', textOf(workNumber), key)
  if (answer === null) return null
  const { status, body } = answer
  return { status, replies: [{ id: body.id, status, deduplicated: body.deduplicated ?? false }] }
}

const askBatch: Ask = async ({ client }, workNumber) => {
  const item = textOf(workNumber, `,"idempotencyKey":"${keyOf(workNumber)}"`)
  const items = Array.from({ length: BATCH_SIZE }, () => item).join(',')
  const answer = await client.request('POST', '/jobs/batch', `{"jobs":[${items}]}`)
  if (answer === null) return null
  const replies = (answer.body.items ?? []).map((one: Reply) => ({
    ...{ id: one.id, status: one.status, deduplicated: one.deduplicated ?? false },
  }))
  return { status: answer.status, replies }
}

/** Repeats a request until there is a response, and logs each try as a call. */
async function persist(
  fixture: Fixture,
  { workNumber, onAnswered }: Asked,
  count: number,
  ask: Ask,
): Promise<Reply[]> {
  const giveUpAtMs = nowMs() + GIVE_UP_AFTER_MS
  while (nowMs() < giveUpAtMs) {
    const sentAtMs = nowMs()
    const answer = await ask(fixture, workNumber)
    for (let i = 0; i < count; i++) {
      const reply = answer?.replies[i]
      fixture.client.calls.push({
        ...{ kind: 'enqueue', sentAtMs, endedAtMs: nowMs(), workNumber, endpoint: 'work' },
        ...{ status: reply?.status ?? answer?.status ?? null, jobId: reply?.id ?? null },
        ...{ idempotencyKey: keyOf(workNumber), delayMs: 0, groupId: null, needs: [] },
        bodyHash: hashOf(payloadText(workNumber, {})),
      })
    }
    if (answer !== null && answer.status < 500) {
      onAnswered()
      return answer.replies
    }
    await sleep(REPEAT_AFTER_MS)
  }
  throw new Error(`no answer within ${GIVE_UP_AFTER_MS} ms of repeating`)
}

/** Checks that the same key with another payload is refused, for any client and on both routes. */
async function expectRefusal({ client, complain }: Fixture, workNumber: number): Promise<void> {
  const key = keyOf(workNumber)
  const other = payloadText(workNumber, { failures: 1 })
  const text = `{"endpoint":"work","idempotencyKey":"${key}","payload":${other}}`
  const single = `{"endpoint":"work","payload":${other}}`
  const [alone, batch] = await Promise.all([
    client.request('POST', '/jobs', single, { 'idempotency-key': key }),
    client.request('POST', '/jobs/batch', `{"jobs":[${text}]}`),
  ])
  if (alone?.status !== 422) complain(`another payload under the key: ${alone?.status}, not 422`)
  const item = batch?.body.items?.[0]
  if (item?.status !== 422) complain(`another payload, in a batch: ${item?.status}, not 422`)
}

/**
 * Checks that each job was delivered once. Kills of the API explain no second delivery, because no
 * worker was affected.
 */
function expectOneDelivery({ receiver, complain }: Fixture, countById: Map<string, number>): void {
  for (const { jobId } of receiver.deliveries) {
    countById.set(jobId, (countById.get(jobId) ?? 0) + 1)
  }
  for (const [id, count] of countById) {
    if (count !== 1) complain(`${id} was delivered ${count} times and not once`)
  }
}
