// The API inside the test process, on a real store and a real port, for tests that need no other
// process.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { FastifyInstance } from 'fastify'
import { pino } from 'pino'
import { afterAll, afterEach, beforeAll, expect } from 'vitest'
import { buildApp } from '../../routes/app.ts'
import type { ConnectionLimits } from '../../routes/http/connections.ts'
import type { InflightLimits } from '../../routes/http/inflight-limits.ts'
import { createMinuteStatsBuffer } from '../../src/stats/minute-stats-buffer.ts'
import { openStore } from '../../src/store/open-store.ts'
import type { Store } from '../../src/store/store.ts'
import { createAddressPolicy } from '../../src/webhook/address-policy.ts'
import { createSender } from '../../src/webhook/send.ts'
import { describedApi, recordAnswers } from './recorded-answers.ts'
import { requestTo, type SendRequest } from './request.ts'

export interface ServedApp {
  app: FastifyInstance
  store: Store
  /** The path of the store's file, for tests that disturb the store. */
  filePath: string
  url: string
  request: SendRequest
  /** Fails if openapi.json does not describe one of the responses. */
  expectDescribedAnswers(): void
  close(): Promise<void>
}

export interface ServedAppOptions {
  /** Used instead of an empty SQLite store; the caller closes it. */
  store?: Store
  apiKeys?: string[]
  maxBodyBytes?: number
  limits?: Partial<ConnectionLimits>
  inflight?: Partial<InflightLimits>
  /** Absent: the address at which the API listens. */
  publicUrl?: string
}

const DAY_MS = 86_400_000

/** One API for all tests of this block. Its fields can be read once the tests begin. */
export function useServedApp(options: ServedAppOptions = {}): ServedApp {
  const served = { request: requestTo(() => served.url) } as ServedApp
  beforeAll(async () => void Object.assign(served, await serveApp(options)))
  afterEach(() => served.expectDescribedAnswers())
  afterAll(() => served.close())
  return served
}

export async function serveApp(options: ServedAppOptions = {}): Promise<ServedApp> {
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
    minuteStats: createMinuteStatsBuffer(),
    publicUrl: () => options.publicUrl ?? url,
    log: pino({ level: 'silent' }),
    apiKeys: options.apiKeys ?? [],
    maxBodyBytes: options.maxBodyBytes ?? 1_048_576,
    version: 'test',
    limits: options.limits ?? {},
    inflight: options.inflight ?? {},
  })
  const undescribed: string[] = []
  recordAnswers(app.server, (answer) =>
    undescribed.push(...describedApi().check.problemsOf(answer)),
  )
  url = await app.listen({ host: '127.0.0.1', port: 0 })
  const expectDescribedAnswers = () => expect(undescribed.splice(0)).toEqual([])
  return {
    app,
    store,
    filePath,
    url,
    request: requestTo(() => url),
    expectDescribedAnswers,
    async close() {
      await app.close()
      await sender.close()
      if (options.store === undefined) await store.close()
      rmSync(directory, { recursive: true })
      expectDescribedAnswers()
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
