// Writes openapi.json from the routes. A test compares it with what the routes say.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pino } from 'pino'
import { buildApp } from '../routes/app.ts'
import { createMinuteStatsBuffer } from '../src/stats/minute-stats-buffer.ts'
import { openStore } from '../src/store/open-store.ts'
import { VERSION } from '../src/version.ts'
import { createAddressPolicy } from '../src/webhook/address-policy.ts'
import { createSender } from '../src/webhook/send.ts'

export const OPENAPI_PATH = join(import.meta.dirname, 'openapi.json')

/** The JSON text of the API's description. */
export async function openapiText(): Promise<string> {
  const directory = mkdtempSync(join(tmpdir(), 'posthorn-openapi-'))
  const store = await openStore(`sqlite:${directory}/posthorn.db`, {
    retentionMs: 0,
    retentionDeadMs: 0,
    encryptionKeys: null,
    warn: () => {},
  })
  const policy = createAddressPolicy({ allowedTargets: [], allowLoopback: false })
  const sender = createSender({ connections: 1, policy: () => policy, extraCaCerts: null })
  const app = await buildApp({
    store,
    policy,
    sender,
    minuteStats: createMinuteStatsBuffer(),
    publicUrl: () => null,
    log: pino({ level: 'silent' }),
    apiKeys: [],
    maxBodyBytes: 1_024,
    version: VERSION,
  })
  const text = `${JSON.stringify(app.swagger(), null, 2)}\n`
  await app.close()
  await sender.close()
  await store.close()
  rmSync(directory, { recursive: true })
  return text
}

if (import.meta.main) writeFileSync(OPENAPI_PATH, await openapiText())
