// How requests and attempts change endpoints, and how many jobs their limits allow.
import { newSecret } from '../../../src/endpoint/endpoint.ts'
import { laterAgain, passed, report, settingsOf, success } from '../../contract/fixtures.ts'
import { HOUR_MS, type Stage } from './fixture.ts'

const ROTATED = newSecret()
const COOLDOWN_MS = 1

export async function endpoints(stage: Stage): Promise<void> {
  const { store } = stage
  const limited = { rateLimit: { count: 2, perMs: 2 * HOUR_MS }, concurrency: 3 }
  await stage.endpoint('work', { ...limited, circuitBreaker: { failures: 3, cooldownMs: HOUR_MS } })
  await stage.endpoint('work', { description: 'changed', headers: { 'x-a': 'b' }, ...limited })
  const secrets = { given: null, fresh: ROTATED }
  await stage.step('put over a version', () =>
    store.putEndpoint(settingsOf({ name: 'work' }), secrets, 9),
  )
  await stage.step('put a new one only', () =>
    store.putEndpoint(settingsOf({ name: 'work' }), secrets, 'none'),
  )
  await stage.step('put one that is there only', () =>
    store.putEndpoint(settingsOf({ name: 'absent' }), secrets, 'any'),
  )
  await stage.step('pause', () => store.pauseEndpoint('work'))
  await stage.step('resume', () => store.resumeEndpoint('work'))
  await stage.step('pause an unknown endpoint', () => store.pauseEndpoint('absent'))
  await stage.step('rotate', () => store.rotateSecret('work', ROTATED, HOUR_MS))
  await stage.step('rotate at once', () => store.rotateSecret('work', ROTATED, 0))
  const reported = (title: string, fields: Parameters<typeof report>[2]) =>
    stage.step(title, () => report(store, 'work', fields))
  await stage.endpoint('work', { circuitBreaker: { failures: 3, cooldownMs: HOUR_MS } })
  await reported('two failures', { failures: 2 })
  await reported('a success', { succeeded: [stage.now()] })
  await reported('three failures', { failures: 3 })
  await reported('a success since', { succeeded: [stage.now() + 2 * HOUR_MS] })
  await reported('throttled', { throttle: { until: stage.now() + 2 * HOUR_MS } })
  await reported('a success of before', { succeeded: [stage.now()] })
  await stage.endpoint('work', {})
  await reported('gone at another version', { goneAtVersion: 1 })
  const version = (await store.endpointsNamed(['work']))[0]?.version ?? 0
  await reported('gone', { goneAtVersion: version })
  await reported('gone again', { goneAtVersion: version })
  await stage.step('resume', () => store.resumeEndpoint('work'))
  await reported('failures without a breaker', { failures: 30 })
  await stage.endpoint('work', { url: null })
  await stage.step('report about an unknown endpoint', () =>
    report(store, 'absent', { failures: 1 }),
  )
  await stage.step('list', () => store.listEndpoints(null, 10))
}

export async function admitting(stage: Stage): Promise<void> {
  const { store } = stage
  const jobs = (endpoint: string, count: number) =>
    stage.enqueue(
      ...Array.from({ length: count }, (_, i) =>
        stage.job(`${endpoint}-${i}`, endpoint, { priority: 9 - i }),
      ),
    )
  await stage.endpoint('few', { concurrency: 2 })
  await stage.endpoint('slow', { rateLimit: { count: 2, perMs: 2 * HOUR_MS } })
  await stage.endpoint('both', { concurrency: 1, rateLimit: { count: 3, perMs: 3 * HOUR_MS } })
  await stage.endpoint('tried', { circuitBreaker: { failures: 1, cooldownMs: COOLDOWN_MS } })
  for (const name of ['few', 'slow', 'both', 'tried']) await jobs(name, 4)
  const [one] = await stage.claim('few', 3)
  await stage.claim('few', 1)
  await stage.step('fail', () => store.settle([laterAgain(store, one as NonNullable<typeof one>)]))
  await stage.claim('few', 2)
  await stage.claim('slow', 1)
  await stage.claim('slow', 3)
  await stage.claim('slow', 3)
  const [other] = await stage.claim('both', 3)
  await stage.claim('both', 3)
  await stage.step('succeed', () =>
    store.settle([success(store, other as NonNullable<typeof other>)]),
  )
  await stage.claim('both', 3)
  await stage.step('trip the breaker, and let the rest end', async () => {
    await report(store, 'tried', { failures: 1 })
    await passed(store, stage.now() + COOLDOWN_MS)
  })
  const [probe] = await stage.claim('tried', 3)
  await stage.claim('tried', 3)
  const claimedAt = probe?.claimedAt ?? 0
  await stage.step('the probe succeeds', () => report(store, 'tried', { succeeded: [claimedAt] }))
  await stage.claim('tried', 3)
  await stage.step('pause', () => store.pauseEndpoint('tried'))
  await stage.claim('tried', 1)
  await stage.claim('absent', 1)
}
