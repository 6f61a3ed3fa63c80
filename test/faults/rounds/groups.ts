// Groups whose members are added, fail, are deleted, retried and cancelled, while workers and the
// API are killed and frozen. The checker compares the counts with the members (I18), and the
// notices with the finishes (I19).
import { setTimeout as sleep } from 'node:timers/promises'
import { until } from '../../support/until.ts'
import type { Fixture, Member } from '../fixture.ts'
import { type CallKind, nowMs } from '../history.ts'
import { BOTH, type Form, type Round } from '../round.ts'
import { type Accepted, type Answer, untilSucceeded } from '../work-client.ts'

const WORKERS = 2
const LEASE_MS = 2_000
const FROZEN_MS = 1.2 * LEASE_MS
/** Processes take longer to start on MongoDB. */
const FAULT_EVERY_MS = { sqlite: [300, 900], mongo: [900, 1_800] } as const
/** Members that are added in batches. Some clients add more, one by one, until a close. */
const MEMBERS = { sqlite: 150, mongo: 60 }
const LONG_MEMBERS = { sqlite: 2_500, mongo: 250 }
const CLIENTS = 3
const PAUSE_MS = [20, 60] as const
const CLOSED_AFTER_MS = [500, 1_500] as const
/** Of the members, so many fail until the group is retried. */
const BROKEN_SHARE = 0.05
const DELETED_SHARE = 0.1
/** So that every fault finds members under way. */
const ANSWER_AFTER_MS = { sqlite: [50, 400], mongo: [200, 800] } as const
const SLOTS_OF_WORKER = 10
/** With a retried member, the notices of a group wait for sweeps and for leases that expire. */
const DEADLINE_MS = 120_000
const TOLD_WITHIN_MS = 30_000
const BUSY_WITHIN_MS = 3_000

const WORKER_KILLED = 'a worker killed with attempts in hand'
const API_KILLED = 'the API killed while members were added'
const CLOSED = 'a group closed while members were added'
const RETRIED = 'a failed group retried'
const CANCELLED = 'a group cancelled with members under way'

export const groups: Round = {
  name: 'groups',
  title: 'kill −9 and SIGSTOP of workers, kill −9 of the API, while groups fill, finish and retry',
  engines: BOTH,
  settings: {
    ...{ leaseMs: LEASE_MS, sweepMs: 250, pollMs: 100 },
    env: { WORKER_CONCURRENCY: `${SLOTS_OF_WORKER}` },
  },
  windows: [WORKER_KILLED, API_KILLED, CLOSED, RETRIED, CANCELLED],
  async play(fixture, form) {
    await fixture.register('told')
    const broken = new Set<number>()
    fixture.receiver.answerWith(({ workNumber }) => (broken.has(workNumber) ? 422 : undefined))
    const workers: Member[] = []
    for (let i = 0; i < WORKERS; i++) workers.push(await fixture.startWorker())
    let addingCount = 0
    let isOver = false
    const breaking = breakAtRandom(
      fixture,
      workers,
      () => addingCount > 0,
      () => isOver,
    )
    const playOne = async (isCancelled: boolean) => {
      addingCount += 1
      const group = await fill(fixture, form, broken).finally(() => {
        addingCount -= 1
      })
      await (isCancelled ? cancel(fixture, group) : finish(fixture, group, broken))
    }
    try {
      const endsAtMs = nowMs() + (form.isLong ? form.minutes * 60_000 : 0)
      do await Promise.all([playOne(false), playOne(false), playOne(true)])
      while (nowMs() < endsAtMs)
    } finally {
      isOver = true
      await breaking
    }
    await fixture.drained()
  },
}

interface Group {
  id: string
  members: Accepted[]
}

/** Creates a group, adds its members, and closes it while some are added. */
async function fill(fixture: Fixture, { isLong }: Form, broken: Set<number>): Promise<Group> {
  const { client, random, engine } = fixture
  const onFinish = { endpoint: 'told', when: 'all_final' }
  const key = { 'idempotency-key': `group-${random.between(0, Number.MAX_SAFE_INTEGER)}` }
  const { body } = await untilSucceeded(() => client.request('POST', '/groups', { onFinish }, key))
  const { id } = body
  const [least, most] = ANSWER_AFTER_MS[engine]
  const work = () => ({
    answerAfterMs: Math.round(random.between(least, most)),
    failures: random.chance(BROKEN_SHARE) ? 1 : 0,
    fields: { group: id },
  })
  const count = (isLong ? LONG_MEMBERS : MEMBERS)[engine]
  const members = await client.enqueueMany(count, work)
  // The receiver may have answered some of these already: they succeed.
  for (const { workNumber } of members) {
    if (random.chance(BROKEN_SHARE)) broken.add(workNumber)
  }
  let isRefused = false
  const addOne = async () => {
    try {
      members.push(await client.enqueue(work()))
    } catch (error) {
      if (!String(error).includes('not accepted: 409')) throw error
      isRefused = true
    }
  }
  const adding = Array.from({ length: CLIENTS }, async () => {
    while (!isRefused) {
      await addOne()
      await sleep(random.between(...PAUSE_MS))
    }
  })
  await sleep(random.between(...CLOSED_AFTER_MS))
  await until(() => (fixture.windows.get(API_KILLED) ?? 0) > 0, DEADLINE_MS)
  await untilSucceeded(() => client.request('POST', `/groups/${id}/close`))
  await Promise.all(adding)
  fixture.hit(CLOSED)
  return { id, members }
}

/** Waits for the notice, retries the failed members, and waits for the second notice. */
async function finish(fixture: Fixture, group: Group, broken: Set<number>): Promise<void> {
  const { random, client } = fixture
  const first = await untilFinal(fixture, group)
  await untilTold(fixture, group, first.finishes)
  if (first.state === 'failed') {
    broken.clear()
    await commandAll(fixture, group, 'retry', 'state=dead&state=cancelled')
    fixture.hit(RETRIED)
    const { finishes } = await untilFinal(fixture, group)
    await untilTold(fixture, group, finishes)
  }
  for (const member of group.members) {
    if (random.chance(DELETED_SHARE)) await client.command('delete', member)
  }
}

async function cancel(fixture: Fixture, group: Group): Promise<void> {
  const before = await commandAll(fixture, group, 'cancel', 'state=queued&state=running')
  fixture.hit(CANCELLED, before > 0 ? 1 : 0)
  const { finishes } = await untilFinal(fixture, group)
  await untilTold(fixture, group, finishes)
}

/**
 * Sends a command for the whole group, and waits until it has reached all members. The log has it
 * as one command for each member that it may have changed. Returns how many these are.
 */
async function commandAll(
  fixture: Fixture,
  { id, members }: Group,
  kind: Extract<CallKind, 'cancel' | 'retry'>,
  states: string,
): Promise<number> {
  const { client } = fixture
  const concerned = new Set<string>()
  let cursor: string | null = null
  do {
    const page: string = cursor === null ? '' : `&cursor=${encodeURIComponent(cursor)}`
    const path = `/jobs?group=${id}&${states}&limit=100${page}`
    const { body } = await untilSucceeded(() => client.request('GET', path))
    for (const job of body.items) concerned.add(job.id)
    cursor = body.nextCursor
  } while (cursor !== null)
  /** If a request was refused, an earlier one without a response may have worked. */
  const isDone = async () => {
    const answer = await client.request('GET', `/groups/${id}`)
    return answer?.status === 200 && answer.body.state !== (kind === 'retry' ? 'failed' : 'closed')
  }
  const sentAtMs = nowMs()
  await untilSucceeded(() => client.request('POST', `/groups/${id}/${kind}`), isDone)
  const marked = kind === 'cancel' ? 'cancelling' : 'retrying'
  await until(async () => {
    const answer = await client.request('GET', `/groups/${id}`)
    return answer?.status === 200 && answer.body.state !== marked
  }, DEADLINE_MS)
  const endedAtMs = nowMs()
  for (const { id: jobId, workNumber } of members) {
    if (!concerned.has(jobId)) continue
    client.calls.push({
      // Some members ended before the command reached them.
      ...{ kind, sentAtMs, endedAtMs, status: null, jobId, endpoint: '', workNumber },
      ...{ idempotencyKey: null, bodyHash: '', delayMs: 0, groupId: null, needs: [] },
    })
  }
  return concerned.size
}

async function untilFinal({ client }: Fixture, { id }: Group): Promise<Answer['body']> {
  let found: Answer | null = null
  await until(async () => {
    found = await client.request('GET', `/groups/${id}?wait=2s`)
    return found?.status === 200 && found.body.finishedAt !== null
  }, DEADLINE_MS)
  return (found as unknown as Answer).body
}

async function untilTold({ receiver }: Fixture, { id }: Group, finishes: number): Promise<void> {
  const told = () =>
    receiver.deliveries.filter(({ notice, status }) => notice?.groupId === id && status === 200)
  // I19 reports a notice that never came.
  await until(
    () => new Set(told().map(({ jobId }) => jobId)).size >= finishes,
    TOLD_WITHIN_MS,
  ).catch(() => {})
}

async function breakAtRandom(
  fixture: Fixture,
  workers: Member[],
  isAdding: () => boolean,
  isOver: () => boolean,
): Promise<void> {
  const faults = [
    async () => {
      fixture.hit(API_KILLED, isAdding() ? 1 : 0)
      await fixture.kill(fixture.api())
      await fixture.startApi()
    },
    async () => {
      const victim = fixture.random.pick(workers)
      const isBusy = async () => (await victim.metric('posthorn_attempts_in_flight')) > 0
      await until(() => isBusy().catch(() => false), BUSY_WITHIN_MS).then(
        () => fixture.hit(WORKER_KILLED),
        () => {},
      )
      await fixture.kill(victim)
      workers[workers.indexOf(victim)] = await fixture.startWorker()
    },
    async () => {
      const victim = fixture.random.pick(workers)
      await fixture.during('freeze', victim.name, async () => {
        victim.process.kill('SIGSTOP')
        await sleep(FROZEN_MS)
        victim.process.kill('SIGCONT')
      })
    },
  ]
  // Each fault happens at least once, whatever the random numbers are.
  for (let i = 0; !isOver() || i < faults.length; i++) {
    const [least, most] = FAULT_EVERY_MS[fixture.engine]
    await sleep(fixture.random.between(least, most))
    await faults[i % faults.length]?.()
  }
}
