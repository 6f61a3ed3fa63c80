// Makes a fairness key rest, as a worker does whose attempt was throttled for the key alone.
import type { FairnessKey } from '../../src/endpoint/key-limits.ts'
import { openStore } from '../../src/store/open-store.ts'
import type { Deployment } from './deployment.ts'

/** @returns when the rest ends, as the API shows it */
export async function restKey({ env }: Deployment, key: FairnessKey): Promise<string> {
  const store = await openStore(env.STORE_URL as string, {
    ...{ retentionMs: 0, retentionDeadMs: 0, warn: () => {} },
    encryptionKeys: [Buffer.from(env.ENCRYPTION_KEY as string, 'base64')],
  })
  const until = store.clock.now() + 3_600_000
  await store.reportKeyHealth([{ ...key, succeeded: [], throttle: { until } }])
  await store.close()
  return new Date(until).toISOString()
}
