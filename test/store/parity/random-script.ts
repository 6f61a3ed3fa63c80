// Random scripts: thirty commands of clients, workers, handlers and sweepers, in any order. A
// script is a list of numbers, so that fast-check can shrink it.
import fc from 'fast-check'
import type { Attempt, ClaimedJob, JobState, NewJob } from '../../../src/job/job.ts'
import type { Holder } from '../../../src/store/store.ts'
import type { OverdueJob } from '../../../src/store/sweep.ts'
import {
  acceptance,
  attemptOf,
  burial,
  holderOf,
  laterAgain,
  leaseOf,
  passed,
  postponement,
  report,
  success,
} from '../../contract/fixtures.ts'
import { HOUR_MS, type Script, type Stage, UNIT_MS } from './fixture.ts'

const COMMANDS = 30
const SHORT_LEASE_MS = 1
/** Jobs without a fairness key become due in the order of their enqueues, all long ago. */
const FIRST_DUE_UNITS = 900
const ENDPOINTS = ['plain', 'limited', 'notifying'] as const
const NOTICES = { endpoint: 'notified', states: ['succeeded', 'dead', 'cancelled'] as const }

/** The numbers by which a command makes its choices. */
interface Draw {
  verb: Verb
  numbers: number[]
}

/** The things that a script can choose from. */
interface World {
  stage: Stage
  /** Names of jobs, oldest first. */
  jobs: string[]
  /** All claims, including those whose lease has ended: their holders do not know that. */
  claimed: ClaimedJob[]
  /** The jobs that were overdue at the last look. */
  overdue: OverdueJob[]
}

type Choose = <T>(items: readonly T[]) => T
type Play = (world: World, choose: Choose) => Promise<unknown>

/** Some have what a need points at. */
const RESULTS = [
  { result: '{"n":1.0}', resultTruncated: false },
  { result: 'null', resultTruncated: false },
  { result: null, resultTruncated: true },
]

const few = [null, null, null, 'a', 'b'] as const

const VERBS = {
  async nothing() {},
  async enqueue(world, choose) {
    const count = choose([1, 1, 1, 2])
    const jobs = [newJob(world, choose)]
    if (count === 1) return world.stage.enqueue(...jobs)
    // Two requests of one batch with the same key behave like two requests at once: either can be
    // the first.
    jobs.push({ ...newJob(world, choose), idempotency: null, dedupe: null })
    // Both requests can concern one job. The state in each result depends on when a store reads the
    // job; its final state does not.
    await world.stage.step(`enqueue ${count}`, async () =>
      (await world.stage.store.enqueue(jobs)).map((result) =>
        'job' in result ? { kind: result.kind, id: result.job.id } : result,
      ),
    )
  },
  async claim(world, choose) {
    await claim(world, choose(ENDPOINTS), choose([1, 1, 2, 3]))
  },
  async claimForPulling(world, choose) {
    await claim(world, choose(ENDPOINTS), 1, { pulls: true })
  },
  async claimAndExpire(world, choose) {
    await claim(world, choose(ENDPOINTS), 1, { leaseMs: SHORT_LEASE_MS })
  },
  async settle({ stage, claimed }, choose) {
    const { store } = stage
    const one = choose(claimed)
    const isLater = choose([false, false, true])
    const end = choose([
      () => ({ ...success(store, one), ...choose(RESULTS) }),
      () => laterAgain(store, one, one.claimedAt + (isLater ? HOUR_MS : 0)),
      () => laterAgain(store, one),
      () => postponement(store, one),
      () => burial(store, one),
    ])()
    const isRepeat = choose([false, false, true])
    await stage.step(end.event, () => store.settle([end], { isRepeat }))
  },
  async accept({ stage, claimed }, choose) {
    const one = choose(claimed)
    const endsAt = one.claimedAt + choose([0, 2 * HOUR_MS])
    await stage.step('accept', () => stage.store.settle([acceptance(one, endsAt)]))
  },
  async renew({ stage, claimed }, choose) {
    const one = choose(claimed)
    await stage.step('renew', () => stage.store.renew([leaseOf(one)], 2 * HOUR_MS))
  },
  async heartbeat({ stage, claimed }, choose) {
    const one = choose(claimed)
    const beat = {
      progress: choose([null, { value: 7, message: 'page 7' }]),
      extendMs: choose([null, 3 * HOUR_MS]),
      completionTimeoutMs: 5 * HOUR_MS,
    }
    await stage.step('heartbeat', () => stage.store.heartbeat(leaseOf(one), beat))
  },
  async release({ stage, claimed }, choose) {
    const one = choose(claimed)
    await stage.step('release', () => stage.store.release([leaseOf(one)]))
  },
  async sweep({ stage }) {
    await stage.sweep()
  },
  async lookForOverdue(world) {
    world.overdue = await world.stage.step('overdue', () => world.stage.store.overdue(10))
  },
  async endOverdue({ stage, overdue }, choose) {
    const late = choose(overdue)
    const attempt: Attempt = {
      ...attemptOf(stage.store, late as unknown as ClaimedJob),
      outcome: 'timeout',
      message: 'no report in time',
      number: late.attemptNumber,
      finishedAt: stage.now() - HOUR_MS,
    }
    const failure = { reason: 'attempts_exhausted', message: 'no report in time' } as const
    const end = choose([
      { ...late, attempt, event: 'time_out' as const, runAt: stage.now() },
      { ...late, attempt, event: 'bury_timed_out' as const, failure },
    ])
    await stage.step(end.event, () => stage.store.endOverdue([end]))
  },
  async cancel({ stage, jobs }, choose) {
    const names = [choose(jobs), choose(jobs)].slice(0, choose([1, 1, 2]))
    await stage.step(`cancel ${names}`, () => stage.store.cancel(names.map(stage.idOf)))
  },
  async retry({ stage, jobs }, choose) {
    const name = choose(jobs)
    const waives = choose([true, false])
    await stage.step(`retry ${name}`, () => stage.store.retry([stage.idOf(name)], { waives }))
  },
  async edit({ stage, jobs }, choose) {
    const name = choose(jobs)
    const change = {
      runAt: choose([undefined, stage.now(), stage.now() + HOUR_MS]),
      priority: choose([undefined, 1, 9]),
      tags: choose([undefined, [], ['x']]),
      expiresInMs: choose([undefined, undefined, null, 5 * HOUR_MS]),
      payload: choose([undefined, Buffer.from('{"edited":true}')]),
    }
    const version = choose([null, null, 1, 2])
    await stage.step(`edit ${name}`, () => stage.store.edit(stage.idOf(name), change, version))
  },
  async deleteJob({ stage, jobs }, choose) {
    const name = choose(jobs)
    await stage.step(`delete ${name}`, () => stage.store.deleteJob(stage.idOf(name)))
  },
  async switchEndpoint({ stage }, choose) {
    const name = choose(ENDPOINTS)
    const { store } = stage
    await choose([
      () => stage.step(`resume ${name}`, () => store.resumeEndpoint(name)),
      () => stage.step(`pause ${name}`, () => store.pauseEndpoint(name)),
      () => stage.step(`${name} fails`, () => report(store, name, { failures: 2 })),
      () => stage.step(`${name} is gone`, () => report(store, name, { goneAtVersion: 1 })),
    ])()
  },
  async read({ stage, jobs }, choose) {
    const { store } = stage
    const states = choose<JobState[]>([['queued'], ['dead', 'cancelled'], ['succeeded']])
    await stage.step('list', () =>
      store.listJobs({ endpoint: choose(ENDPOINTS), states, limit: 3 }),
    )
    await stage.step('count', () => store.countJobs([...ENDPOINTS, 'notified', 'nowhere']))
    await stage.step('final', () => store.finalAmong(jobs.map(stage.idOf)))
    await stage.step('inputs', async () => {
      const all = await Promise.all(jobs.map((name) => store.getInputs(stage.idOf(name))))
      return all.map((inputs) => inputs && Buffer.from(inputs).toString())
    })
    await stage.step('head', () => store.headOfOrderingKey(choose(ENDPOINTS), 'a'))
  },
} satisfies Record<string, Play>

type Verb = keyof typeof VERBS

/**
 * Commands that lead to many others are listed more than once. fast-check shrinks to the first one.
 */
const WEIGHTED: Verb[] = [
  'nothing',
  ...(Object.keys(VERBS) as Verb[]).slice(1),
  ...(['enqueue', 'enqueue', 'enqueue', 'enqueue', 'enqueue', 'claim', 'claim', 'claim'] as const),
  ...(['settle', 'settle', 'settle', 'sweep', 'retry', 'cancel'] as const),
]

const draw: fc.Arbitrary<Draw> = fc.record({
  verb: fc.constantFrom(...WEIGHTED),
  numbers: fc.array(fc.nat({ max: 999 }), { minLength: 32, maxLength: 32 }),
})

export const randomScripts = fc.array(draw, { minLength: COMMANDS, maxLength: COMMANDS })

export function scriptOf(draws: Draw[]): Script {
  return async (stage) => {
    const world: World = { stage, jobs: [], claimed: [], overdue: [] }
    await stage.endpoint('notified')
    await stage.endpoint('plain')
    await stage.endpoint('limited', { concurrency: 1 })
    await stage.endpoint('notifying', { onFinish: { ...NOTICES, states: [...NOTICES.states] } })
    for (const { verb, numbers } of draws) {
      await VERBS[canPlay(verb, world) ? verb : 'enqueue'](world, chooser(numbers))
    }
    await stage.sweep()
  }
}

/**
 * Claims jobs. The hints when to ask again are left out: a store may give one without need.
 * Resolves after a short lease has ended.
 */
async function claim(
  { stage, claimed }: World,
  endpoint: string,
  limit: number,
  holder: Partial<Holder> = {},
): Promise<void> {
  const { store } = stage
  const complete = holderOf({ leaseMs: HOUR_MS, ...holder })
  const jobs = await stage.step(`claim ${limit} of ${endpoint}`, async () => {
    const claim = await store.claim([{ endpoint, limit }], limit, complete)
    if (complete.leaseMs === SHORT_LEASE_MS) {
      await passed(store, store.clock.now() + SHORT_LEASE_MS)
    }
    return claim.jobs
  })
  claimed.push(...jobs)
}

/** Whether there is something that the command can apply to. */
function canPlay(verb: Verb, { jobs, claimed, overdue }: World): boolean {
  switch (verb) {
    case 'settle':
    case 'accept':
    case 'renew':
    case 'heartbeat':
    case 'release':
      return claimed.length > 0
    case 'endOverdue':
      return overdue.length > 0
    case 'cancel':
    case 'retry':
    case 'edit':
    case 'deleteJob':
      return jobs.length > 0
    default:
      return true
  }
}

function newJob({ stage, jobs }: World, choose: Choose): NewJob {
  const name = `job-${jobs.length + 1}`
  const key = choose(few)
  const request = choose(['same', 'same', 'other'])
  const dedupe = choose(few)
  const orderingKey = choose(few)
  const dependsOn = [choose(jobs), choose(jobs)].slice(0, choose([0, 0, 0, 1, 2]))
  const needed = [choose(jobs), choose(jobs)].slice(0, choose([0, 0, 0, 1, 2]))
  const needs = needed
    .filter((one) => !dependsOn.includes(one))
    .map((one, i) => ({
      ...{ name: `n${i}`, jobId: stage.idOf(one), pointer: choose(['', '', '/n']) },
      ifFailed: choose(['fail', 'continue'] as const),
    }))
  // SQLite gives a job that is queued again, or unblocked, its turn at once, MongoDB in the next
  // claim, by runAt. Both have the same order if the jobs of a key come in the order of runAt.
  const isUnblocked = orderingKey !== null || dependsOn.length + needs.length > 0
  const fairnessKey = choose(isUnblocked ? [null, name] : few)
  const job = stage.job(name, choose(ENDPOINTS), {
    runAt: stage.now() - (fairnessKey === null ? (FIRST_DUE_UNITS - jobs.length) * UNIT_MS : 0),
    priority: choose([5, 5, 9]),
    maxAttempts: choose([1, 2, 3]),
    expiresAt: choose([null, null, null, null, stage.now() + HOUR_MS, stage.now()]),
    // As in the API: the hash stands for the request, including its payload.
    ...(key === null
      ? {}
      : { idempotency: { key, requestHash: request }, payload: Buffer.from(`"${request}"`) }),
    dedupe:
      dedupe === null
        ? null
        : { key: dedupe, mode: choose(['keep', 'replace', 'replace', 'reject'] as const) },
    orderingKey,
    fairnessKey,
    cost: choose([1, 1, 7]),
    dependsOn: [...new Set(dependsOn.map(stage.idOf))],
    needs,
    onFinish: choose(['inherited', 'inherited', null]),
    metadata: choose([{}, { customer: '7' }]),
  })
  jobs.push(name)
  return job
}

/** Choices by the given numbers, one after another. */
function chooser(numbers: number[]): Choose {
  let at = 0
  return (items) => items[(numbers[at++ % numbers.length] as number) % items.length] as never
}
