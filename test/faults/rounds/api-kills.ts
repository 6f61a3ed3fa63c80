// The API is killed before a write, and after a write but before its 201. The client repeats with
// its key. On MongoDB it is also killed between the write of a large payload and that of its job.

import { DatabaseSync } from 'node:sqlite'
import { setImmediate as turn } from 'node:timers/promises'
import { until } from '../../support/until.ts'
import type { Fixture } from '../fixture.ts'
import { nowMs } from '../history.ts'
import { BOTH, type Round } from '../round.ts'

const JOBS = 20
const WANTED_HITS = { short: 2, long: 25 }
/**
 * In about half of the tries the kill is too late: the response is sent a millisecond after the
 * write.
 */
const TRIES_FOR_A_HIT = 12
const WRITE_DEADLINE_MS = 1_000

const BEFORE_WRITE = 'API killed before the write'
const BEFORE_ANSWER = 'API killed after the write and before the 201'
const BEFORE_JOB = 'API killed between the payload and its job'
/** MongoDB has payloads of more than 8 KiB in a collection of their own. */
const LARGE = 'x'.repeat(10_000)

export const apiKills: Round = {
  name: 'api-kills',
  title: 'API killed before the write, or after it and before the 201',
  engines: BOTH,
  settings: { pollMs: 50 },
  windows: [BEFORE_WRITE, BEFORE_ANSWER],
  windowsOf: { mongo: [BEFORE_JOB] },
  async play(fixture, { isLong }) {
    const wanted = isLong ? WANTED_HITS.long : WANTED_HITS.short
    await beforeWrite(fixture)
    if (fixture.engine === 'mongo') await betweenPayloadAndJob(fixture)
    for (let tries = 0; tries < wanted * TRIES_FOR_A_HIT; tries++) {
      if ((fixture.windows.get(BEFORE_ANSWER) ?? 0) >= wanted) break
      await (fixture.engine === 'sqlite'
        ? whenTheFileChanges(fixture)
        : whenTheAnswerIsLost(fixture))
    }
    await fixture.startWorker()
    await fixture.drained()
  },
}

async function beforeWrite(fixture: Fixture): Promise<void> {
  const { client } = fixture
  const restore = await fixture.store.cutOffAll()
  const enqueued = Promise.all(Array.from({ length: JOBS }, () => client.enqueue()))
  // The response to a later request shows that the API has read the earlier ones.
  await until(async () => (await client.request('GET', '/health/live'))?.status === 200)
  await fixture.kill(fixture.api())
  // All requests have ended. If the API responded before it writes, none of them would lack a
  // response.
  await until(() => client.calls.length >= JOBS)
  fixture.hit(BEFORE_WRITE, client.calls.filter(({ status }) => status === null).length)
  await restore()
  await fixture.startApi()
  await enqueued
}

/** Watches the file, and kills the API at the moment when the write becomes visible. */
async function whenTheFileChanges(fixture: Fixture): Promise<void> {
  const { client } = fixture
  const database = new DatabaseSync(fixture.store.filePath as string, { readOnly: true })
  const versionQuery = database.prepare('pragma data_version')
  const version = () => (versionQuery.get() as { data_version: number }).data_version
  const api = fixture.api()
  // The connection is opened first, so that only the request itself takes time.
  await client.request('GET', '/health/live')
  await fixture.during('kill', 'api', async () => {
    const before = version()
    const enqueued = repeatedUntilKnown(fixture)
    for (let i = 0; i < 3; i++) await turn()
    const giveUpAtMs = nowMs() + WRITE_DEADLINE_MS
    while (version() === before && nowMs() < giveUpAtMs);
    api.process.kill('SIGKILL')
    await api.process.stop('SIGKILL')
    database.close()
    await fixture.startApi()
    await enqueued
  })
}

async function whenTheAnswerIsLost(fixture: Fixture): Promise<void> {
  await killAfterInsert(fixture, repeatedUntilKnown)
}

/**
 * Kills the API after the first insert, which is that of the payload. Only the repeat stores the
 * job.
 */
async function betweenPayloadAndJob(fixture: Fixture): Promise<void> {
  await killAfterInsert(fixture, async ({ client }) => {
    const { workNumber } = await client.enqueue({ padding: LARGE })
    const mine = client.calls.filter((call) => call.workNumber === workNumber)
    fixture.hit(BEFORE_JOB, mine[0]?.status === null ? 1 : 0)
  })
}

/** The first insert of this work reaches MongoDB, later ones do not, and the API is killed. */
async function killAfterInsert(
  fixture: Fixture,
  work: (fixture: Fixture) => Promise<void>,
): Promise<void> {
  const proxy = fixture.store.apiProxy
  if (proxy === null) throw new Error('MongoDB is reached through a proxy')
  const lostBefore = proxy.lostAnswers()
  proxy.cutAfter('insert')
  const enqueued = work(fixture)
  await until(() => proxy.lostAnswers() > lostBefore)
  await fixture.kill(fixture.api())
  proxy.restore()
  await fixture.startApi()
  await enqueued
}

/**
 * Repeats the request until it succeeds. A hit: the first one got no response, and the repeat finds
 * that the job exists.
 */
async function repeatedUntilKnown(fixture: Fixture): Promise<void> {
  const { workNumber } = await fixture.client.enqueue()
  const mine = fixture.client.calls.filter((call) => call.workNumber === workNumber)
  const isHit = mine[0]?.status === null && mine.at(-1)?.status === 200
  fixture.hit(BEFORE_ANSWER, isHit ? 1 : 0)
}
