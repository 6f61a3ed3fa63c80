// The API inside the test process, on a real store and a real port: for what needs no other
// process.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import { pino } from 'pino'
import { afterEach, expect } from 'vitest'
import { buildApp } from '../../routes/app.ts'
import type { ConnectionLimits } from '../../routes/http/connections.ts'
import type { InflightLimits } from '../../routes/http/inflight-limits.ts'
import { createMinuteStats } from '../../src/stats/minute-stats.ts'
import { openStore } from '../../src/store/open-store.ts'
import type { Store } from '../../src/store/store.ts'
import { createAddressPolicy } from '../../src/webhook/address-policy.ts'
import { createSender } from '../../src/webhook/send.ts'
import { createAnswerCheck, recordAnswers } from './recorded-answers.ts'

export interface ServedApp {
  app: FastifyInstance
  store: Store
  /** Of the store, to get in its way. */
  filePath: string
  url: string
  close(): Promise<void>
}

const DAY_MS = 86_400_000

/** What answers held that openapi.json does not describe: it fails the test that got them. */
const undescribed: string[] = []
afterEach(() => expect(undescribed.splice(0)).toEqual([]))

export async function serveApp(
  options: {
    /** In place of an empty SQLite store; the caller closes it. */
    store?: Store
    apiKeys?: string[]
    maxBodyBytes?: number
    limits?: Partial<ConnectionLimits>
    inflight?: Partial<InflightLimits>
    /** Absent: where it listens. */
    publicUrl?: string
  } = {},
): Promise<ServedApp> {
  const directory = mkdtempSync(join(tmpdir(), 'posthorn-test-'))
  const filePath = join(directory, 'posthorn.db')
  const store = options.store ?? (await openEmptyStore(filePath))
  const policy = createAddressPolicy({ allowedTargets: [], allowLoopback: true })
  const sender = createSender({ connections: 1, policy: () => policy, extraCaCerts: null })
  let url = ''
  const app = await buildApp({
    store,
    policy,
    sender,
    figures: createMinuteStats(),
    publicUrl: () => options.publicUrl ?? url,
    log: pino({ level: 'silent' }),
    apiKeys: options.apiKeys ?? [],
    maxBodyBytes: options.maxBodyBytes ?? 1_048_576,
    version: 'test',
    limits: options.limits ?? {},
    inflight: options.inflight ?? {},
  })
  const check = createAnswerCheck(app.swagger())
  recordAnswers(app.server, (answer) => undescribed.push(...check.problemsOf(answer)))
  url = await app.listen({ host: '127.0.0.1', port: 0 })
  return {
    app,
    store,
    filePath,
    url,
    async close() {
      await app.close()
      await sender.close()
      if (options.store === undefined) await store.close()
      rmSync(directory, { recursive: true })
    },
  }
}

function openEmptyStore(filePath: string): Promise<Store> {
  return openStore(`sqlite:${filePath}`, {
    retentionMs: DAY_MS,
    retentionDeadMs: DAY_MS,
    encryptionKeys: null,
    warn: () => {},
  })
}
