// The promise of a store that is removed: a job that was accepted after that is in the store that a
// restart opens, or it was refused. API and workers report it, and no process silently starts with
// an empty store.
import { randomBytes } from 'node:crypto'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { dirname, join } from 'node:path'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { backUpStore } from '../../src/store/open-store.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import type { Process } from '../support/process.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'

/** Within this time no job is accepted any more. */
const NOTICED_WITHIN_MS = 1_000
const SENDERS = 4
/** This many refusals in a row show that not just one write has failed. */
const MANY = 50

interface Accepted {
  id: string
  atMs: number
}

let posthorn: Deployment
let receiver: Receiver
let api: Process
let worker: Process
let path: string

beforeEach(async () => {
  posthorn = deploy('sqlite')
  // The store is in a folder of its own, so that the whole folder can be removed.
  path = join((posthorn.env.STORE_URL as string).slice('sqlite:'.length), '../data/posthorn.db')
  posthorn.env.STORE_URL = `sqlite:${path}`
  receiver = await startReceiver()
  api = await posthorn.startApi()
  worker = await posthorn.startWorker({ WORKER_PORT: '0' })
  await posthorn.endpoint('work', receiver.url)
})
afterEach(async () => {
  await posthorn.close()
  await receiver.close()
})

const post = () => posthorn.request('POST', '/jobs', { endpoint: 'work', payload: 'x' })

/** Enqueues from several clients until it is stopped. Keeps the ids of accepted jobs. */
function keepEnqueueing() {
  const accepted: Accepted[] = []
  const details = new Set<string>()
  let refusals = 0
  let isStopping = false
  const senders = Array.from({ length: SENDERS }, async () => {
    while (!isStopping) {
      const { status, body } = await post()
      if (status === 201) accepted.push({ id: body.id, atMs: performance.now() })
      else {
        expect([status, body.code]).toEqual([503, 'store_unavailable'])
        details.add(body.detail)
        refusals++
      }
    }
  })
  return {
    accepted,
    details,
    refusals: () => refusals,
    async stop() {
      isStopping = true
      await Promise.all(senders)
    },
  }
}

/** Makes an older copy beside the store, as `posthorn backup` does. */
async function olderCopy(): Promise<string> {
  const copy = join(path, '../../older.db')
  await backUpStore(`sqlite:${path}`, copy, [
    Buffer.from(posthorn.env.ENCRYPTION_KEY as string, 'base64'),
  ])
  return copy
}

/** Makes a copy as `cp` does. */
function plainCopy(): string {
  const copy = join(path, '../../plain.db')
  copyFileSync(path, copy)
  return copy
}

const REMOVED = 'was removed or replaced while it was in use'
/** A read may find pages that do not fit together before the file itself is checked. */
const OVERWRITTEN = 'an older copy is written into it'

const LOSSES: [string, () => Promise<() => void>][] = [
  ['its folder is removed', async () => () => rmSync(dirname(path), { recursive: true })],
  [
    'an older copy is moved over it',
    async () => {
      const copy = await olderCopy()
      return () => renameSync(copy, path)
    },
  ],
  [
    OVERWRITTEN,
    async () => {
      const copy = await olderCopy()
      return () => copyFileSync(copy, path)
    },
  ],
  ['its log is removed', async () => () => rmSync(`${path}-wal`)],
  [
    'its folder becomes a link to another',
    async () => {
      const other = join(path, '../../other')
      mkdirSync(other)
      copyFileSync(plainCopy(), join(other, 'posthorn.db'))
      return () => {
        renameSync(dirname(path), join(path, '../../aside'))
        symlinkSync(other, dirname(path))
      }
    },
  ],
]

describe('a store in use', () => {
  it.each(LOSSES)(
    '%s: nothing more is accepted, and every process says so',
    async (loss, prepare) => {
      await post()
      const lose = await prepare()
      const load = keepEnqueueing()
      await until(() => load.accepted.length > 20)
      lose()
      const lostAtMs = performance.now()
      await until(() => load.refusals() > MANY)
      await load.stop()
      expect(load.accepted.filter(({ atMs }) => atMs > lostAtMs + NOTICED_WITHIN_MS)).toEqual([])
      const said = loss === OVERWRITTEN ? [REMOVED, 'is damaged'] : [REMOVED]
      const isSaid = (detail: string) => said.some((what) => detail.startsWith(`the store ${what}`))
      expect([...load.details].filter((detail) => !isSaid(detail))).toEqual([])
      expect([...load.details].join()).not.toContain(path)

      const ready = await posthorn.request('GET', '/health/ready')
      expect(ready.status).toBe(503)
      expect(said).toContain(ready.body.checks.store)
      const { url } = await worker.logged('worker_port.listening')
      expect((await fetch(`${url}/health/ready`)).status).toBe(503)
      for (const one of [api, worker]) {
        const { level, detail } = await one.logged('store.lost')
        expect(level).toBe('error')
        expect(detail).toContain(path)
      }
      const delivered = receiver.requests.length
      expect((await posthorn.request('GET', '/jobs?endpoint=work')).status).toBe(503)
      expect(receiver.requests.length).toBe(delivered)
    },
  )

  it('moved away and back is used again, with all that was accepted', async () => {
    const load = keepEnqueueing()
    await until(() => load.accepted.length > 20)
    renameSync(dirname(path), `${dirname(path)}-aside`)
    await until(() => load.details.size > 0)
    await until(() => worker.log.some(({ msg }) => msg === 'store.lost'))
    renameSync(`${dirname(path)}-aside`, dirname(path))
    const before = load.accepted.length
    await until(() => load.accepted.length > before + 20)
    await load.stop()
    await api.stop()
    await worker.stop()
    await posthorn.startApi()
    await posthorn.startWorker()
    const look = ({ id }: Accepted) => posthorn.request('GET', `/jobs/${id}`)
    const found = await Promise.all(load.accepted.map(look))
    expect(found.filter(({ status }) => status !== 200)).toEqual([])
    await posthorn.job(load.accepted.at(-1)?.id as string, 'succeeded')
  })

  it.each([
    ['its log is emptied', '-wal', 0],
    ['its log is cut off', '-wal', 10_000],
    ['the file itself is cut off', '', 20_480],
  ])('%s: nothing more is accepted, now or later', async (_, end, length) => {
    for (let i = 0; i < 20; i++) expect((await post()).status).toBe(201)
    truncateSync(path + end, length)
    await until(async () => (await post()).status === 503)
    expect((await api.logged('store.lost')).detail).toMatch(/was cut off.*restore/)
    expect((await posthorn.request('GET', '/health/ready')).status).toBe(503)
    expect((await post()).status).toBe(503)
  })

  it('without its key file, or with another key in it, takes nothing more', async () => {
    const { ENCRYPTION_KEY: _, ...env } = posthorn.env
    await api.stop()
    await worker.stop()
    rmSync(dirname(path), { recursive: true })
    const keyless = await posthorn.startApi({ ...env, ENCRYPTION_KEY: '' })
    await posthorn.endpoint('work', receiver.url)
    expect((await post()).status).toBe(201)
    const key = readFileSync(`${path}.key`)
    writeFileSync(`${path}.key`, randomBytes(32).toString('base64'))
    await until(async () => (await post()).status === 503)
    const { detail: advice } = await keyless.logged('store.lost')
    expect(advice).toMatch(/^the key file \S+\.key was changed .* Restore it from a backup/)
    expect(advice).not.toContain('-wal')
    writeFileSync(`${path}.key`, key)
    await until(async () => (await post()).status === 201)
    rmSync(`${path}.key`)
    await until(async () => (await post()).status === 503)
    await until(() => keyless.log.some(({ detail }) => /\.key was removed/.test(String(detail))))
  })
})

describe('a store that is gone', () => {
  it('is not created by a worker that is started again, nor filled from an empty file', async () => {
    await worker.stop()
    await api.stop()
    rmSync(dirname(path), { recursive: true })
    await expect(posthorn.startWorker()).rejects.toThrow(/ended with 1: .*there is no store at/s)
    expect(existsSync(path)).toBe(false)
    mkdirSync(dirname(path))
    writeFileSync(path, '')
    await expect(posthorn.startApi()).rejects.toThrow(/ended with 1: .*is an empty file/s)
    expect(statSync(path).size).toBe(0)
  })
})
