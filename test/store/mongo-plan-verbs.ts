// The verbs of jobs that wait, replace, report later or are limited, for mongo-plans.test.ts.
import { newSecret } from '../../src/endpoint/endpoint.ts'
import type { DedupeMode } from '../../src/job/job.ts'
import type { Store } from '../../src/store/store.ts'
import {
  acceptance,
  addEndpoint,
  burial,
  claimOne,
  enqueueMany,
  holderOf,
  newJob,
  success,
} from '../contract/fixtures.ts'

const DAY_MS = 86_400_000

export async function useWaitingVerbs(store: Store): Promise<void> {
  await useLimitsAndHealth(store)
  await useAftermath(store)
  await useDedupe(store)
  await useAsync(store)
}

async function useLimitsAndHealth(store: Store): Promise<void> {
  const limits = { concurrency: 5, rateLimit: { count: 5, perMs: 60_000 } }
  const breaker = { circuitBreaker: { failures: 1, cooldownMs: 1 } }
  const first = await addEndpoint(store, limits)
  const second = await addEndpoint(store, { ...limits, ...breaker })
  for (const name of [first, second]) await enqueueMany(store, name, 2)
  const none = { succeeded: [], failures: 0, throttle: null, goneAtVersion: null }
  await store.reportHealth([{ ...none, endpoint: second, failures: 1 }])
  for (let i = 0; i < 2; i++) {
    const shares = [first, second].map((endpoint) => ({ endpoint, limit: 1 }))
    await store.claim(shares, 2, holderOf())
  }
  await store.pauseEndpoint(first)
  await store.resumeEndpoint(first)
  await store.rotateSecret(first, newSecret(), 1_000)
}

/** Those that wait, fail and go on by what another job has come to. */
async function useAftermath(store: Store): Promise<void> {
  const told = await addEndpoint(store)
  const endpoint = await addEndpoint(store)
  const onFinish = { endpoint: told, states: ['succeeded' as const, 'dead' as const] }
  const [first = ''] = await enqueueMany(store, endpoint, 2, { orderingKey: 'k', onFinish })
  await enqueueMany(store, told, 2, { dependsOn: [first], expiresAt: store.clock.now() + DAY_MS })
  await store.settle([success(store, await claimOne(store, endpoint))])
  const second = await claimOne(store, endpoint)
  await enqueueMany(store, told, 1, { dependsOn: [second.jobId] })
  await store.settle([burial(store, second)])
  await enqueueMany(store, endpoint, 1, { orderingKey: 'k' })
  await store.retry([second.jobId])
  await store.headOfOrderingKey(endpoint, 'k')
  await store.deleteJob(first)
  await enqueueMany(store, endpoint, 1, { orderingKey: 'k' })
  await store.sweep({ limit: 10, reclaim: true })
}

async function useDedupe(store: Store): Promise<void> {
  const endpoint = await addEndpoint(store)
  const ask = (mode: DedupeMode, key: string) =>
    store.enqueue([
      newJob(store, endpoint, {
        dedupe: { key: 'd', mode },
        idempotency: { key, requestHash: 'h' },
        originKey: `origin ${key}`,
      }),
    ])
  await ask('keep', 'a')
  await ask('keep', 'b')
  await ask('replace', 'c')
  const claimed = await claimOne(store, endpoint)
  await ask('replace', 'd')
  await store.release([claimed])
  await ask('reject', 'e')
  await store.retry([claimed.jobId])
  const [last = ''] = await enqueueMany(store, endpoint, 1)
  await store.edit(last, { priority: 9 }, null)
}

async function useAsync(store: Store): Promise<void> {
  const endpoint = await addEndpoint(store)
  await enqueueMany(store, endpoint, 1)
  const claimed = await claimOne(store, endpoint, 1)
  await store.settle([acceptance(claimed, claimed.claimedAt + 1)])
  const progress = { value: 1, message: null }
  await store.heartbeat(claimed, { progress, extendMs: 1, completionTimeoutMs: 1 })
  await store.overdue(10)
}
