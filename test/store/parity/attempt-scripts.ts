// The actions of workers and sweepers: attempts and how they end, leases and jobs that expire.
import type { Attempt, ClaimedJob } from '../../../src/job/job.ts'
import {
  acceptance,
  attemptOf,
  burial,
  laterAgain,
  leaseOf,
  postponement,
  success,
} from '../../contract/fixtures.ts'
import { HOUR_MS, type Stage } from './fixture.ts'

export async function settling(stage: Stage): Promise<void> {
  const { store } = stage
  await stage.endpoint('work')
  const settle = (title: string, ...args: Parameters<typeof store.settle>) =>
    stage.step(title, () => store.settle(...args))
  await stage.enqueue(stage.job('one', 'work', { metadata: { a: '1' }, headers: { 'x-a': 'b' } }))
  let claimed = await stage.claimOne('work')
  await stage.step('renew', () => store.renew([leaseOf(claimed)], 2 * HOUR_MS))
  await stage.step('renew for less', () => store.renew([leaseOf(claimed)], HOUR_MS))
  await stage.step('renew without a holder', () =>
    store.renew([{ ...leaseOf(claimed), fence: 9 }], HOUR_MS),
  )
  await stage.step('release', () => store.release([leaseOf(claimed)]))
  await stage.step('release again', () => store.release([leaseOf(claimed)]))
  await settle('settle what was released', [success(store, claimed)])
  claimed = await stage.claimOne('work')
  const failure = laterAgain(store, claimed)
  await settle('settle without the lease', [
    { ...failure, leaseId: 'other' },
    { ...failure, fence: failure.fence + 1 },
  ])
  await settle('reschedule', [failure])
  await settle('reschedule again', [failure], { isRepeat: true })
  await settle('succeed after that', [success(store, claimed)])
  await settle('bury after that', [burial(store, claimed)])
  claimed = await stage.claimOne('work')
  await settle('postpone', [postponement(store, claimed)])
  claimed = await stage.claimOne('work')
  await stage.step('release after attempts', () => store.release([leaseOf(claimed)]))
  claimed = await stage.claimOne('work')
  const done = success(store, claimed)
  await settle('succeed', [done])
  await settle('succeed again', [done], { isRepeat: true, durable: true })
  await settle('fail after that', [laterAgain(store, claimed)])
  await stage.enqueue(stage.job('by-handler', 'work', { maxAttempts: 1 }))
  claimed = await stage.claimOne('work')
  const attempt = attemptOf(store, claimed, { outcome: 'failed', message: 'no paper' })
  const byHandler = { reason: 'failed_by_handler', message: 'no paper' } as const
  await settle('bury', [{ ...leaseOf(claimed), attempt, event: 'bury', failure: byHandler }])
  await settle('the same, decided otherwise', [
    { ...leaseOf(claimed), attempt, event: 'reschedule', runAt: stage.now() },
  ])
  await settle('the same, with another outcome', [
    {
      ...leaseOf(claimed),
      attempt: { ...attempt, outcome: 'timeout' },
      event: 'bury',
      failure: byHandler,
    },
  ])
  await settle('a batch with an unknown job', [{ ...done, jobId: stage.idOf('nobody') }, done])
  await stage.enqueue(stage.job('long', 'work', { maxAttempts: 30 }))
  for (let i = 0; i < 22; i++) {
    claimed = await stage.claimOne('work')
    await settle('fail once more', [laterAgain(store, claimed)])
  }
  await stage.step('cancel', () => store.cancel([claimed.jobId]))
}

export async function completing(stage: Stage): Promise<void> {
  const { store } = stage
  await stage.endpoint('work', { completion: 'async' })
  await stage.enqueue(stage.job('later', 'work'))
  let claimed = await stage.claimOne('work')
  const beat = (title: string, fields: object = {}) =>
    stage.step(title, () =>
      store.heartbeat(leaseOf(claimed), {
        progress: null,
        extendMs: null,
        completionTimeoutMs: 3 * HOUR_MS,
        ...fields,
      }),
    )
  await beat('heartbeat while sending', { progress: { value: 10, message: null } })
  const accepted = acceptance(claimed, stage.now() + 2 * HOUR_MS)
  await stage.step('await', () => store.settle([accepted]))
  await stage.step('await again', () => store.settle([accepted], { isRepeat: true }))
  await stage.step('renew what awaits', () => store.renew([leaseOf(claimed)], HOUR_MS))
  await beat('heartbeat')
  await beat('heartbeat with a time of its own', {
    extendMs: 5 * HOUR_MS,
    progress: { value: null, message: 'page 4' },
  })
  await stage.step('complete', () => store.settle([success(store, claimed)]))
  await stage.step('await after that', () => store.settle([accepted]))
  await beat('heartbeat after that')
  await stage.enqueue(stage.job('pulled', 'work'))
  claimed = await stage.claimOne('work', { pulls: true })
  await beat('heartbeat of a puller')
  await beat('heartbeat of a puller for long', { extendMs: 2 * HOUR_MS })
  await stage.step('fail', () => store.settle([burial(store, claimed)]))
  for (const name of ['again', 'dies', 'dies-of-budget']) {
    await stage.enqueue(stage.job(name, 'work', { maxAttempts: name === 'dies-of-budget' ? 1 : 2 }))
    claimed = await stage.claimOne('work')
    await stage.step('await', () => store.settle([acceptance(claimed, stage.now())]))
  }
  const late = await stage.step('overdue', () => store.overdue(10))
  const timedOut = (job: (typeof late)[number]): Attempt => ({
    ...attemptOf(store, job as unknown as ClaimedJob),
    outcome: 'timeout',
    message: 'no report in time',
    number: job.attemptNumber,
    finishedAt: stage.now() - HOUR_MS,
  })
  const failure = { reason: 'attempts_exhausted', message: 'no report in time' } as const
  const ends = late.map((job) => {
    const end = { ...job, attempt: timedOut(job) }
    return job.jobId === stage.idOf('again')
      ? { ...end, event: 'time_out' as const, runAt: stage.now() + HOUR_MS }
      : { ...end, event: 'bury_timed_out' as const, failure }
  })
  await stage.step('end the overdue', () => store.endOverdue(ends))
  await stage.step('end the overdue again', () => store.endOverdue(ends))
  await stage.step('complete what is over', () => store.settle([success(store, claimed)]))
}

export async function expiring(stage: Stage): Promise<void> {
  const { store } = stage
  await stage.endpoint('notified')
  await stage.endpoint('work')
  const onFinish = { endpoint: 'notified', states: ['dead' as const] }
  await stage.enqueue(stage.job('lapses', 'work', { maxAttempts: 2, onFinish }))
  const first = await stage.claimAndExpire('work')
  await stage.sweep('reclaim')
  await stage.step('settle what lapsed', () =>
    store.settle([laterAgain(store, first)], { isRepeat: true }),
  )
  const last = await stage.claimAndExpire('work')
  await stage.sweep('bury')
  await stage.step('settle what lapsed', () =>
    store.settle([success(store, last), burial(store, last)]),
  )
  await stage.enqueue(stage.job('expires', 'work', { expiresAt: stage.now(), onFinish }))
  await stage.sweep('expire')
  await stage.enqueue(stage.job('expires-later', 'work', { expiresAt: stage.now() + HOUR_MS }))
  const claimed = await stage.claimOne('work')
  await stage.step('fail', () => store.settle([laterAgain(store, claimed)]))
  await stage.step('let it expire', () => store.edit(claimed.jobId, { expiresInMs: 0 }, null))
  await stage.sweep('expire after a failed attempt')
  const waits = stage.job('waits', 'notified')
  await stage.enqueue(
    waits,
    stage.job('expires-held', 'work', { dependsOn: [waits.id], expiresAt: stage.now() }),
    stage.job('follows', 'work', { orderingKey: 'a' }),
    stage.job('expires-behind', 'work', { orderingKey: 'a', expiresAt: stage.now(), onFinish }),
  )
  await stage.sweep('expire what is held')
  await stage.step('list the dead', () => store.listJobs({ states: ['dead'], limit: 10 }))
  await stage.step('list by reason', () =>
    store.listJobs({ states: ['dead'], failureReason: 'expired', limit: 10 }),
  )
}

export async function purging(stage: Stage): Promise<void> {
  const { store } = stage
  await stage.endpoint('work')
  const day = 24 * HOUR_MS
  const idempotency = { key: 'k', requestHash: 'h' }
  const cases: [string, 'succeed' | 'bury', number, object][] = [
    ['succeeded-long-ago', 'succeed', 8, {}],
    ['succeeded-lately', 'succeed', 6, {}],
    ['dead-long-ago', 'bury', 31, {}],
    ['dead-lately', 'bury', 29, {}],
    ['keyed-long-ago', 'succeed', 8, { idempotency }],
    ['of-origin-long-ago', 'succeed', 8, { originKey: 'schedule:a:1' }],
  ]
  for (const [name, event, days, fields] of cases) {
    await stage.enqueue(stage.job(name, 'work', fields))
    const claimed = await stage.claimOne('work')
    const end = event === 'succeed' ? success(store, claimed) : burial(store, claimed)
    const finishedAt = stage.now() - days * day
    await stage.step(event, () =>
      store.settle([{ ...end, attempt: { ...end.attempt, finishedAt } }]),
    )
  }
  await stage.sweep('purge')
}
