// The store of a fault run, and every way in which it can be taken away.
import { execFileSync } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { databaseUrl, type RunningMongo } from '../support/mongo.ts'
import { type MongoProxy, startMongoProxy } from '../support/mongo-proxy.ts'
import { dropDatabase, rawTextOf, rawTextOfDatabase } from '../support/raw-store.ts'

/** Ends what it began. */
export type Mend = () => Promise<void>

export interface StoreGround {
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

/** @param isSmallDisk on a file system of its own that can be filled; needs the right to mount */
export function sqliteGround(isSmallDisk: boolean): StoreGround {
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
    fillDisk: isSmallDisk ? fillDisk : null,
    rawText: async () => rawTextOf(folder),
    async remove() {
      if (isMounted) execFileSync('umount', ['-l', folder])
      isMounted = false
      rmSync(folder, { recursive: true, force: true })
    },
  }
}

/** A database of its own on a server that rounds share; all traffic goes through our proxies. */
export async function mongoGround(server: RunningMongo): Promise<StoreGround> {
  const url = databaseUrl(server.url, `faults-${randomBytes(6).toString('hex')}`)
  const apiProxy = await startMongoProxy(url)
  const workerProxy = await startMongoProxy(url)
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
      await dropDatabase(url)
      for (const proxy of both) await proxy.stop()
    },
  }
}
