// The stores that the contract suite runs on. Each test file gets an empty one of its own.
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, inject } from 'vitest'
import { openStore } from '../../src/store/open-store.ts'
import type { Store, StoreSettings } from '../../src/store/store.ts'
import type { Engine } from './engines.ts'
import { refuseWrongMarks } from './index-marks.ts'
import { databaseUrl } from './mongo.ts'
import { dropDatabase, rawTextOf, rawTextOfDatabase } from './raw-store.ts'

const DAY_MS = 86_400_000
/** One key for all stores of a test file, so that the contents of two of them can be compared. */
const encryptionKey = randomBytes(32)
const RETENTION = { retentionMs: 7 * DAY_MS, retentionDeadMs: 30 * DAY_MS }

/** A place where jobs are kept, and what a test can do with it. */
export interface Place {
  readonly url: string
  /** The store that is open; most tests need no other. */
  readonly store: Store
  /** Opens another store on the same data, as another process would. It is closed at the end. */
  open(settings?: Partial<StoreSettings>): Promise<Store>
  /** The key of each store whose settings give no other. */
  readonly encryptionKey: Buffer
  /** Warnings of the stores that were opened here, oldest first. */
  readonly warnings: Warning[]
  /** All stored bytes, as someone who steals the disk could read them. */
  rawText(): Promise<string>
}

export interface Warning {
  fields: Record<string, unknown>
  message: string
}

/** Opens an empty store before the tests of this block and removes it after them. */
export function useStore(engine: Engine, settings: Partial<StoreSettings> = {}): Place {
  const warnings: Warning[] = []
  const complete: StoreSettings = {
    ...RETENTION,
    encryptionKeys: [encryptionKey],
    warn: (fields, message) => void warnings.push({ fields, message }),
    ...settings,
  }
  let fixture: Fixture
  const opened: Store[] = []

  async function open(changes: Partial<StoreSettings> = {}): Promise<Store> {
    const store = await openStore(fixture.url(), { ...complete, ...changes })
    opened.push(store)
    return store
  }

  beforeAll(async () => {
    fixture = FIXTURES[engine]()
    await open()
    if (engine === 'sqlite') refuseWrongMarks(fixture.url().slice('sqlite:'.length))
  })
  afterAll(async () => {
    await Promise.all(opened.map((store) => store.close()))
    await fixture.remove()
  })

  return {
    get url() {
      return fixture.url()
    },
    get store() {
      return opened[0] as Store
    },
    open,
    encryptionKey,
    warnings,
    rawText: () => fixture.rawText(),
  }
}

/** Opens an empty store for this work alone, and removes it afterwards. */
export async function withStore<T>(
  engine: Engine,
  work: (store: Store, warnings: readonly Warning[]) => Promise<T>,
): Promise<T> {
  const warnings: Warning[] = []
  const fixture = FIXTURES[engine]()
  try {
    const store = await openStore(fixture.url(), {
      ...RETENTION,
      encryptionKeys: [encryptionKey],
      warn: (fields, message) => void warnings.push({ fields, message }),
    })
    try {
      return await work(store, warnings)
    } finally {
      await store.close()
    }
  } finally {
    await fixture.remove()
  }
}

interface Fixture {
  url(): string
  rawText(): Promise<string>
  remove(): Promise<void>
}

const FIXTURES: Record<Engine, () => Fixture> = {
  sqlite() {
    const folder = mkdtempSync(join(tmpdir(), 'posthorn-store-'))
    return {
      url: () => `sqlite:${join(folder, 'posthorn.db')}`,
      rawText: async () => rawTextOf(folder),
      remove: async () => rmSync(folder, { recursive: true, force: true }),
    }
  },
  mongo() {
    const url = databaseUrl(inject('mongoUrl'), `test-${randomBytes(6).toString('hex')}`)
    return {
      url: () => url,
      rawText: () => rawTextOfDatabase(url),
      remove: () => dropDatabase(url),
    }
  },
}
