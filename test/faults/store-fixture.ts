// The store of a fault run, and all the ways to make it unavailable or slow.
import { execFileSync, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { type ElectionProxy, startElectionProxy } from '../support/election-proxy.ts'
import { databaseUrl, type RunningMongo } from '../support/mongo.ts'
import { type MongoProxy, startMongoProxy } from '../support/mongo-proxy.ts'
import { dropDatabase, rawTextOf, rawTextOfDatabase } from '../support/raw-store.ts'
import { createSlowDisk } from '../support/slow-writes.ts'

/** Ends the fault. */
export type Restore = () => Promise<void>

export interface StoreFixture {
  /** The URLs for the API and for the workers: each has its own path to the same store. */
  apiUrl: string
  workerUrl: string
  /** For rounds that read the file themselves; SQLite only. */
  filePath: string | null
  /**
   * Workers cannot write. On MongoDB they cannot read either. On SQLite the API cannot write
   * either.
   */
  cutOffWorkers(): Promise<Restore>
  /** No process can write. */
  cutOffAll(): Promise<Restore>
  /** Every response of the store is delayed; null: not possible with this store. */
  slow: ((delayMs: number) => Promise<Restore>) | null
  /**
   * Writes become slow, but stay correct. On MongoDB each document takes this much longer, for
   * every process. On SQLite another process holds the write lock for this time, half of the time.
   */
  slowWrites(ms: number): Promise<Restore>
  /** The URL of another, empty store in the same place, which is as slow as this one. */
  siblingUrl: string
  /** Kills the server as a crash does, until the repair; null: not possible with this store. */
  crash: (() => Promise<Restore>) | null
  /** Fills the disk, so that nothing more can be written; null: not possible with this store. */
  fillDisk: (() => Promise<Restore>) | null
  /** The proxy between the workers and the store, which can lose single responses; MongoDB only. */
  workerProxy: MongoProxy | null
  /** Only if MongoDB runs as a replica set; else null. */
  elections: Elections | null
  apiProxy: MongoProxy | null
  /** All stored bytes, as someone who steals the disk could read them. */
  rawText(): Promise<string>
  remove(): Promise<void>
}

export interface Elections {
  /**
   * Begins an election at the next request of the API or of the workers that contains this text and
   * writes a document. The server executes the request, but does not confirm that a majority has
   * it. Resolves when the election has begun.
   *
   * @param isCrash all connections end as well
   */
  beginAt(side: 'api' | 'worker', text: string, forMs: number, isCrash: boolean): Promise<void>
}

const DISK_SIZE = '64m'
const SIBLING = 'sibling.db'
const LOCK_HOLDER = join(import.meta.dirname, 'lock-holder.ts')

/**
 * @param isSmallDisk the store is on a file system of its own that can be filled; needs the right
 * to mount
 */
export function sqliteFixture(isSmallDisk: boolean): StoreFixture {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-faults-'))
  let isMounted = isSmallDisk
  if (isMounted) {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${DISK_SIZE}`, 'tmpfs', folder])
  }
  const filePath = join(folder, 'posthorn.db')
  const url = `sqlite:${filePath}`

  /** Acts as a long writer: holds the write lock of the file. */
  async function lock(): Promise<Restore> {
    const writer = new DatabaseSync(filePath, { timeout: 5_000 })
    writer.exec('begin immediate')
    return async () => writer.close()
  }
  async function fillDisk(): Promise<Restore> {
    const filler = join(folder, 'filler')
    let chunk = 1 << 20
    // Writes larger pieces first, then smaller ones, until no page is free.
    while (chunk >= 512) {
      try {
        writeFileSync(filler, Buffer.alloc(chunk), { flag: 'a' })
      } catch {
        chunk >>= 1
      }
    }
    return async () => rmSync(filler)
  }

  return {
    ...{ apiUrl: url, workerUrl: url, filePath, workerProxy: null, apiProxy: null },
    elections: null,
    ...{ cutOffWorkers: lock, cutOffAll: lock, slow: null, crash: null },
    siblingUrl: `sqlite:${join(folder, SIBLING)}`,
    slowWrites: (ms) => holdLocks([filePath, join(folder, SIBLING)], ms),
    fillDisk: isSmallDisk ? fillDisk : null,
    rawText: async () => rawTextOf(folder),
    async remove() {
      if (isMounted) execFileSync('umount', ['-l', folder])
      isMounted = false
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

/**
 * Holds the locks in another process, because a lock holder here would be frozen together with the
 * round.
 */
async function holdLocks(paths: string[], ms: number): Promise<Restore> {
  const words = [LOCK_HOLDER, String(ms), ...paths]
  const child = spawn(process.execPath, words, { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = once(child, 'exit')
  await Promise.race([once(child.stdout, 'data'), ended])
  return async () => {
    child.kill()
    await ended
  }
}

/**
 * A database of its own on a server that rounds share. All its traffic goes through proxies of the
 * suite.
 */
export async function mongoFixture(server: RunningMongo): Promise<StoreFixture> {
  const url = databaseUrl(server.url, `faults-${randomBytes(6).toString('hex')}`)
  const siblingUrl = databaseUrl(server.url, `faults-${randomBytes(6).toString('hex')}`)
  const disk = createSlowDisk()
  const apiProxy = await startMongoProxy(url, disk)
  const workerProxy = await startMongoProxy(url, disk)
  const siblingProxy = await startMongoProxy(siblingUrl, disk)
  const both = [apiProxy, workerProxy]
  const { crashes } = server

  const restoreBoth = async () => {
    for (const proxy of both) proxy.restore()
  }
  return {
    ...{ apiUrl: apiProxy.url, workerUrl: workerProxy.url, filePath: null, apiProxy, workerProxy },
    elections: null,
    async cutOffWorkers() {
      workerProxy.stall()
      return async () => workerProxy.restore()
    },
    async cutOffAll() {
      for (const proxy of both) proxy.stall()
      return restoreBoth
    },
    siblingUrl: siblingProxy.url,
    async slowWrites(ms) {
      disk.setDelay(ms)
      return async () => disk.setDelay(0)
    },
    async slow(delayMs) {
      for (const proxy of both) proxy.slow(delayMs)
      return restoreBoth
    },
    crash:
      crashes &&
      (async () => {
        await crashes.kill()
        return crashes.restart
      }),
    fillDisk: null,
    rawText: () => rawTextOfDatabase(url),
    async remove() {
      disk.setDelay(0)
      await dropDatabase(url)
      await dropDatabase(siblingUrl)
      for (const proxy of [...both, siblingProxy]) await proxy.stop()
    },
  }
}

/** The same for a replica set whose primary changes. It has no other fault. */
export async function replicaSetFixture(server: RunningMongo): Promise<StoreFixture> {
  const url = databaseUrl(server.url, `faults-${randomBytes(6).toString('hex')}`)
  // The driver looks at each member once a second. Its least interval stays at the default of half
  // a second, as for a user.
  const monitoring = 'heartbeatFrequencyMS=1000'
  const api = await startElectionProxy(url, monitoring)
  const worker = await startElectionProxy(url, monitoring)
  const proxies = [api, worker]
  const impossible = () => Promise.reject(new Error('only elections are possible here'))
  return {
    ...{ apiUrl: api.url, workerUrl: worker.url, filePath: null, apiProxy: null },
    ...{ workerProxy: null, slow: null, crash: null, fillDisk: null, siblingUrl: url },
    ...{ cutOffWorkers: impossible, cutOffAll: impossible, slowWrites: impossible },
    elections: {
      beginAt(side, text, forMs, isCrash) {
        const [own, other] = (side === 'api' ? [api, worker] : [worker, api]) as [
          ElectionProxy,
          ElectionProxy,
        ]
        own.electionMs = forMs
        return new Promise((resolve) => {
          let hasBegun = false
          // Of several such requests in progress, the first one that has written begins it.
          const atWrite = () => {
            if (hasBegun) return false
            hasBegun = true
            own.decide = () => null
            other.stepDown(forMs, isCrash)
            resolve()
            return true
          }
          own.decide = (_, message) => {
            if (!message.includes(text)) return null
            if (isCrash) return { kind: 'unanswered', atWrite }
            return { kind: 'unconfirmed', by: 'InterruptedDueToReplStateChange', atWrite }
          }
        })
      },
    },
    rawText: () => rawTextOfDatabase(url),
    async remove() {
      await dropDatabase(url)
      for (const proxy of proxies) await proxy.stop()
    },
  }
}
