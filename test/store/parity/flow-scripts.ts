// How the finish of one job affects others, and how changes of an endpoint affect its jobs.
import { burial, laterAgain, leaseOf, report, success } from '../../contract/fixtures.ts'
import { HOUR_MS, type Stage } from './fixture.ts'

export async function depending(stage: Stage): Promise<void> {
  const { store } = stage
  await stage.endpoint('notified')
  await stage.endpoint('base')
  await stage.endpoint('work', { onFinish: { endpoint: 'notified', states: ['dead'] } })
  const on = (...names: string[]) => ({ dependsOn: names.map(stage.idOf) })
  await stage.enqueue(stage.job('a', 'base'), stage.job('b', 'base'))
  await stage.enqueue(
    stage.job('after-both', 'work', on('a', 'b')),
    stage.job('after-a', 'work', { ...on('a'), orderingKey: 'k' }),
    stage.job('after-a-in-order', 'work', { ...on('a'), orderingKey: 'k' }),
  )
  const a = await stage.claimOne('base')
  await stage.step('succeed', () => store.settle([success(store, a)]))
  await stage.enqueue(stage.job('after-a-late', 'work', on('a')))
  await stage.enqueue(stage.job('after-both-late', 'work', on('a', 'b')))
  await stage.sweep()
  const b = await stage.claimOne('base')
  await stage.enqueue(stage.job('after-after', 'work', on('after-both')))
  await stage.step('bury', () => store.settle([burial(store, b)]))
  await stage.enqueue(stage.job('doomed', 'work', on('a', 'b')))
  await stage.enqueue(stage.job('doomed-in-order', 'work', { ...on('b'), orderingKey: 'd' }))
  await stage.enqueue(stage.job('behind-the-doomed', 'work', { orderingKey: 'd' }))
  await stage.sweep('fail the doomed')
  await stage.enqueue(stage.job('c', 'base'), stage.job('d', 'base'))
  await stage.enqueue(stage.job('after-c', 'work', on('c')), stage.job('after-d', 'work', on('d')))
  await stage.step('cancel', () => store.cancel([stage.idOf('c')]))
  await stage.step('cancel', () => store.cancel([stage.idOf('d')]))
  await stage.step('delete', () => store.deleteJob(stage.idOf('d')))
  await stage.step('retry what was cancelled', () => store.retry([stage.idOf('c')]))
  await stage.step('retry what depends on it', () =>
    store.retry([stage.idOf('after-c'), stage.idOf('after-d')]),
  )
  const c = await stage.claimOne('base')
  await stage.step('succeed', () => store.settle([success(store, c)]))
  await stage.enqueue(stage.job('e', 'base', { priority: 9 }), stage.job('f', 'base'))
  await stage.enqueue(stage.job('after-e-and-f', 'work', on('e', 'f')))
  const e = await stage.claimOne('base')
  const f = await stage.claimOne('base')
  await stage.step('one of two succeeds', () => store.settle([success(store, e), burial(store, f)]))
  await stage.sweep()
}

export async function needing(stage: Stage): Promise<void> {
  const { store } = stage
  await stage.endpoint('base')
  await stage.endpoint('work')
  const need = (name: string, fields = {}) =>
    ({ name, jobId: stage.idOf(name), pointer: '', ifFailed: 'fail', ...fields }) as const
  const inputsOf = (name: string) =>
    stage.step(`inputs of ${name}`, async () => {
      const inputs = await store.getInputs(stage.idOf(name))
      return inputs && Buffer.from(inputs).toString()
    })
  const remove = (name: string) =>
    stage.step(`delete ${name}`, () => store.deleteJob(stage.idOf(name)))
  const retry = (...names: string[]) =>
    stage.step(`retry ${names}`, () => store.retry(names.map(stage.idOf)))
  await stage.enqueue(stage.job('a', 'base'), stage.job('b', 'base'), stage.job('c', 'base'))
  await stage.enqueue(
    stage.job('both', 'work', { needs: [need('b', { pointer: '/ok' }), need('a')] }),
    stage.job('goes-on', 'work', { needs: [need('a'), need('c', { ifFailed: 'continue' })] }),
    stage.job('fails', 'work', { needs: [need('c')] }),
    stage.job('misses', 'work', { needs: [need('b', { pointer: '/absent' })], dependsOn: [] }),
    stage.job('in-order', 'work', { needs: [need('a')], orderingKey: 'k' }),
    stage.job('in-order-behind', 'work', { needs: [need('c')], orderingKey: 'k' }),
  )
  const a = await stage.claimOne('base')
  await stage.step('succeed', () => store.settle([success(store, a)]))
  await remove('a')
  await inputsOf('both')
  const b = await stage.claimOne('base')
  await stage.step('succeed', () => store.settle([success(store, b)]))
  await stage.sweep()
  await inputsOf('both')
  const c = await stage.claimOne('base')
  await stage.step('bury', () => store.settle([burial(store, c)]))
  await stage.sweep()
  await inputsOf('goes-on')
  await retry('fails')
  await remove('a')
  await stage.enqueue(
    stage.job('at-once', 'work', { needs: [need('b')] }),
    stage.job('never', 'work', { needs: [need('b'), need('c')] }),
    stage.job('missing-at-once', 'work', { needs: [need('b', { pointer: '/absent' })] }),
    stage.job('not-stored', 'work', { needs: [need('a')] }),
    stage.job('copied', 'work', {
      inputs: Buffer.from('{"inputs":{"a":1.0}}'),
      priority: 9,
    }),
  )
  await stage.sweep()
  await inputsOf('copied')
  await stage.step('cancel', () => store.cancel(['both', 'goes-on'].map(stage.idOf)))
  await retry('both', 'c', 'goes-on', 'fails')
  await inputsOf('both')
  await stage.sweep()
  await inputsOf('both')
  const again = await stage.claimOne('base')
  await stage.step('succeed', () => store.settle([success(store, again)]))
  await stage.sweep()
  await inputsOf('goes-on')
  await stage.claim('work', 20)
}

export async function ordering(stage: Stage): Promise<void> {
  const { store } = stage
  await stage.endpoint('work')
  const inOrder = { orderingKey: 'customer' }
  await stage.enqueue(...['1', '2', '3', '4'].map((name) => stage.job(name, 'work', inOrder)))
  const head = () => stage.step('head', () => store.headOfOrderingKey('work', 'customer'))
  await head()
  const first = await stage.claimOne('work')
  await stage.claim('work')
  await stage.step('fail', () => store.settle([laterAgain(store, first, stage.now() + HOUR_MS)]))
  await head()
  await stage.step('cancel', () => store.cancel([stage.idOf('1')]))
  await head()
  await stage.step('retry the first', () => store.retry([stage.idOf('1')]))
  const again = await stage.claimOne('work')
  await stage.step('bury', () => store.settle([burial(store, again)]))
  const second = await stage.claimOne('work')
  await stage.step('retry while the next runs', () => store.retry([stage.idOf('1')]))
  await stage.step('release', () => store.release([leaseOf(second)]))
  await stage.sweep()
  const either = await stage.claimOne('work')
  await stage.step('succeed', () => store.settle([success(store, either)]))
  await stage.sweep()
  await stage.step('cancel all', () => store.cancel(['1', '2', '3', '4'].map(stage.idOf)))
  await head()
}

export async function noticing(stage: Stage): Promise<void> {
  const { store } = stage
  await stage.endpoint('notified')
  await stage.endpoint('work')
  const all = ['succeeded', 'dead', 'cancelled'] as const
  const onFinish = { endpoint: 'notified', states: [...all] }
  const told = { onFinish, metadata: { customer: '7' } }
  await stage.enqueue(stage.job('succeeds', 'work', told))
  const first = await stage.claimOne('work')
  await stage.step('succeed', () =>
    store.settle([{ ...success(store, first), result: '{"id":12345678901234567890}' }]),
  )
  await stage.enqueue(stage.job('dies', 'work', told))
  const second = await stage.claimOne('work')
  await stage.step('bury', () => store.settle([burial(store, second)]))
  await stage.step('retry', () => store.retry([second.jobId]))
  const third = await stage.claimOne('work')
  await stage.step('bury', () => store.settle([burial(store, third)]))
  await stage.enqueue(stage.job('is-cancelled', 'work', told))
  await stage.step('cancel', () => store.cancel([stage.idOf('is-cancelled')]))
  await stage.enqueue(
    stage.job('silent', 'work', { onFinish: { endpoint: 'notified', states: ['dead'] } }),
  )
  await stage.step('cancel', () => store.cancel([stage.idOf('silent')]))
  await stage.step('tell that it is gone', () => report(store, 'notified', { goneAtVersion: 1 }))
  await stage.enqueue(stage.job('tells-a-disabled-one', 'work', told))
  await stage.step('cancel', () => store.cancel([stage.idOf('tells-a-disabled-one')]))
  await stage.enqueue(stage.job('notifies-none', 'work', told))
  await stage.step('delete', () =>
    store.deleteEndpoint('notified', { force: true, ifVersion: null }),
  )
  await stage.step('cancel', () => store.cancel([stage.idOf('notifies-none')]))
  await stage.sweepAway('notified')
  await stage.step('delete', () => store.deleteJob(stage.idOf('notifies-none')))
}

export async function deleting(stage: Stage): Promise<void> {
  const { store } = stage
  await stage.endpoint('notified')
  await stage.endpoint('empty')
  await stage.endpoint('work', { onFinish: { endpoint: 'notified', states: ['dead'] } })
  const remove = (name: string, force: boolean, ifVersion: number | null = null) =>
    stage.step(`delete ${name}`, () => store.deleteEndpoint(name, { force, ifVersion }))
  await stage.enqueue(stage.job('base', 'notified'))
  await stage.enqueue(
    stage.job('lapsed', 'work', { priority: 9 }),
    stage.job('last-lapsed', 'work', { priority: 8, maxAttempts: 1 }),
    stage.job('running', 'work', { priority: 7 }),
    stage.job('queued', 'work', { priority: 1 }),
    stage.job('expired', 'work', { priority: 0, expiresAt: stage.now() }),
    stage.job('held', 'work', { dependsOn: [stage.idOf('base')] }),
  )
  await stage.claimAndExpire('work')
  await stage.claimAndExpire('work')
  const running = await stage.claimOne('work')
  await remove('work', false)
  await remove('work', true, 9)
  await remove('empty', false)
  await remove('empty', false)
  await remove('work', true)
  await remove('work', true)
  await stage.step('pause what is being deleted', () => store.pauseEndpoint('work'))
  await stage.sweepAway('work')
  const beat = { progress: null, extendMs: null, completionTimeoutMs: HOUR_MS }
  await stage.step('heartbeat of what was evicted', () => store.heartbeat(leaseOf(running), beat))
  await stage.step('settle what was evicted', () => store.settle([success(store, running)]))
  await stage.step('names of the deleted', () => store.deletedEndpoints())
  await stage.endpoint('work')
  await stage.step('retry', () => store.retry([stage.idOf('queued')]))
}
