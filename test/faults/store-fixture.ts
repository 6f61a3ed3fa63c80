// The store of a fault run, and every way in which it can be taken away.
import { execFileSync, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { databaseUrl, type RunningMongo } from '../support/mongo.ts'
import { type MongoProxy, startMongoProxy } from '../support/mongo-proxy.ts'
import { dropDatabase, rawTextOf, rawTextOfDatabase } from '../support/raw-store.ts'
import { createSlowDisk } from '../support/slow-writes.ts'

/** Ends what it began. */
export type Mend = () => Promise<void>

export interface StoreFixture {
  /** What the API and what the workers are given: each has its own way to the same store. */
  apiUrl: string
  workerUrl: string
  /** In which a round may look for itself; SQLite only. */
  filePath: string | null
  /** Workers can write nothing; on MongoDB neither read. On SQLite the API can not write either. */
  cutOffWorkers(): Promise<Mend>
  /** Nobody can write. */
  cutOffAll(): Promise<Mend>
  /** Every answer of the store comes later; null: there is no such thing here. */
  slow: ((delayMs: number) => Promise<Mend>) | null
  /**
   * Writes get slow, and stay correct. MongoDB: each document takes so much longer, whoever writes
   * it. SQLite: another process holds the write lock for so long, half of the time.
   */
  slowWrites(ms: number): Promise<Mend>
  /** Another, empty store in the same place, as slow as this one. */
  siblingUrl: string
  /** Killed as by a crash, until it is mended; null: there is no such thing here. */
  crash: (() => Promise<Mend>) | null
  /** No byte more can be written; null: there is no such thing here. */
  fillDisk: (() => Promise<Mend>) | null
  /** The way of the workers, to lose single answers; MongoDB only. */
  workerProxy: MongoProxy | null
  apiProxy: MongoProxy | null
  /** All that is stored, as whoever steals the disk would read it. */
  rawText(): Promise<string>
  remove(): Promise<void>
}

const DISK_SIZE = '64m'
const SIBLING = 'sibling.db'
const LOCK_HOLDER = join(import.meta.dirname, 'lock-holder.ts')

/** @param isSmallDisk on a file system of its own that can be filled; needs the right to mount */
export function sqliteFixture(isSmallDisk: boolean): StoreFixture {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-faults-'))
  let isMounted = isSmallDisk
  if (isMounted) {
    execFileSync('mount', ['-t', 'tmpfs', '-o', `size=${DISK_SIZE}`, 'tmpfs', folder])
  }
  const filePath = join(folder, 'posthorn.db')
  const url = `sqlite:${filePath}`

  /** A long writer: holds the write lock of the file. */
  async function lock(): Promise<Mend> {
    const writer = new DatabaseSync(filePath, { timeout: 5_000 })
    writer.exec('begin immediate')
    return async () => writer.close()
  }
  async function fillDisk(): Promise<Mend> {
    const filler = join(folder, 'filler')
    let chunk = 1 << 20
    // Larger pieces first, then smaller ones, until not a page is left.
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

/** In another process: here it would stand still together with the round. */
async function holdLocks(paths: string[], ms: number): Promise<Mend> {
  const words = [LOCK_HOLDER, String(ms), ...paths]
  const child = spawn(process.execPath, words, { stdio: ['ignore', 'pipe', 'inherit'] })
  const ended = once(child, 'exit')
  await Promise.race([once(child.stdout, 'data'), ended])
  return async () => {
    child.kill()
    await ended
  }
}

/** A database of its own on a server that rounds share; all traffic goes through our proxies. */
export async function mongoFixture(server: RunningMongo): Promise<StoreFixture> {
  const url = databaseUrl(server.url, `faults-${randomBytes(6).toString('hex')}`)
  const siblingUrl = databaseUrl(server.url, `faults-${randomBytes(6).toString('hex')}`)
  const disk = createSlowDisk()
  const apiProxy = await startMongoProxy(url, disk)
  const workerProxy = await startMongoProxy(url, disk)
  const siblingProxy = await startMongoProxy(siblingUrl, disk)
  const both = [apiProxy, workerProxy]
  const { crashes } = server

  const mendBoth = async () => {
    for (const proxy of both) proxy.mend()
  }
  return {
    ...{ apiUrl: apiProxy.url, workerUrl: workerProxy.url, filePath: null, apiProxy, workerProxy },
    async cutOffWorkers() {
      workerProxy.stall()
      return async () => workerProxy.mend()
    },
    async cutOffAll() {
      for (const proxy of both) proxy.stall()
      return mendBoth
    },
    siblingUrl: siblingProxy.url,
    async slowWrites(ms) {
      disk.setDelay(ms)
      return async () => disk.setDelay(0)
    },
    async slow(delayMs) {
      for (const proxy of both) proxy.slow(delayMs)
      return mendBoth
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
