// Schedulers on a real store: which ticks become jobs, whatever crashes and however many schedulers
// run.
import { pino } from 'pino'
import { afterEach, describe, expect, it } from 'vitest'
import type { Job } from '../../src/job/job.ts'
import { jobByHand, jobOfTick, readSettings } from '../../src/schedule/schedule.ts'
import type { Store } from '../../src/store/store.ts'
import { Scheduler } from '../../src/upkeep/scheduler.ts'
import { addEndpoint, claimOne, report, success } from '../contract/fixtures.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'
import { addSchedule, HOUR_MS, movedOn, storedSchedule } from './fixtures.ts'

const silent = pino({ level: 'silent' })

describe.each(ENGINES)('on %s', (engine) => {
  const place = useStore(engine)
  const schedulers: Scheduler[] = []

  afterEach(async () => {
    await Promise.all(schedulers.splice(0).map((one) => one.stop()))
  })

  function startScheduler(store: Store): void {
    const scheduler = new Scheduler(store, silent)
    schedulers.push(scheduler)
    scheduler.start()
  }

  async function jobsAt(endpoint: string): Promise<Pick<Job, 'id' | 'runAt' | 'scheduleName'>[]> {
    const { items } = await place.store.listJobs({ endpoint, limit: 100 })
    return items.reverse()
  }

  it('a tick becomes a job that is due at the tick, and the schedule moves on', async () => {
    const endpoint = await addEndpoint(place.store)
    const schedule = await addSchedule(place.store, endpoint, 300)
    startScheduler(place.store)
    const after = await movedOn(place.store, schedule)
    const jobs = await jobsAt(endpoint)
    expect(jobs).toMatchObject([{ runAt: schedule.nextRunAt, scheduleName: schedule.name }])
    expect(after).toMatchObject({
      nextRunAt: (schedule.nextRunAt as number) + HOUR_MS,
      lastJobId: jobs[0]?.id,
      lastError: null,
      version: 1,
    })
  })

  it('of schedulers that see the same tick one makes the job', async () => {
    const endpoint = await addEndpoint(place.store)
    const stores = [place.store, await place.open(), await place.open()]
    const schedules = await Promise.all(
      Array.from({ length: 40 }, () => addSchedule(place.store, endpoint, 300)),
    )
    for (const store of stores) startScheduler(store)
    for (const schedule of schedules) await movedOn(place.store, schedule)
    const names = (await jobsAt(endpoint)).map(({ scheduleName }) => scheduleName)
    expect(names.toSorted()).toEqual(schedules.map(({ name }) => name).toSorted())
  })

  it('a tick whose job was made before the crash is not made again', async () => {
    const endpoint = await addEndpoint(place.store)
    const schedule = await addSchedule(place.store, endpoint, -100)
    const now = place.store.clock.now()
    const source = { ...schedule, settings: readSettings(schedule.settings) }
    const tickAt = schedule.nextRunAt as number
    await place.store.enqueue([jobOfTick(source, tickAt, tickAt, now)])
    const [made] = await jobsAt(endpoint)
    startScheduler(place.store)
    expect(await movedOn(place.store, schedule)).toMatchObject({
      lastJobId: made?.id,
      lastError: null,
    })
    expect(await jobsAt(endpoint)).toHaveLength(1)
  })

  it('each tick of the last minute is caught up, in order', async () => {
    const endpoint = await addEndpoint(place.store)
    const startAt = place.store.clock.now() - 30_000
    const schedule = await addSchedule(place.store, endpoint, -30_000, {
      everyMs: 1_000,
      endAt: startAt + 30_000,
    })
    startScheduler(place.store)
    await until(async () => (await storedSchedule(place.store, schedule.name)).nextRunAt === null)
    const first = schedule.nextRunAt as number
    const due = (await jobsAt(endpoint)).map(({ runAt }) => runAt)
    expect(due).toEqual(due.map((_, n) => first + n * 1_000))
    expect(due.length).toBeGreaterThanOrEqual(30)
  })

  it('ticks that were missed are one job now, or none', async () => {
    const endpoint = await addEndpoint(place.store)
    const once = await addSchedule(place.store, endpoint, -HOUR_MS, { everyMs: 60_000 })
    const none = await addSchedule(
      place.store,
      endpoint,
      -HOUR_MS,
      { everyMs: 60_000 },
      { misfire: 'skip' },
    )
    const from = place.store.clock.now()
    startScheduler(place.store)
    const after = [await movedOn(place.store, once), await movedOn(place.store, none)]
    for (const { nextRunAt } of after) expect(nextRunAt).toBeGreaterThan(from)
    const jobs = await jobsAt(endpoint)
    expect(jobs).toMatchObject([{ scheduleName: once.name }])
    expect(jobs[0]?.runAt).toBeGreaterThanOrEqual(from)
    expect(after[0]).toMatchObject({ lastJobId: jobs[0]?.id, lastError: null })
    expect(after[1]?.lastError).toMatch(/was missed/)
  })

  it('with overlap skip a tick makes no job while the last one is not final', async () => {
    const endpoint = await addEndpoint(place.store)
    const schedule = await addSchedule(
      place.store,
      endpoint,
      100,
      { everyMs: 1_000 },
      { overlap: 'skip' },
    )
    for (const store of [place.store, await place.open()]) startScheduler(store)
    await until(async () => (await storedSchedule(place.store, schedule.name)).lastError !== null)
    const [first, ...others] = await jobsAt(endpoint)
    expect(others).toEqual([])
    expect((await storedSchedule(place.store, schedule.name)).lastError).toContain(first?.id)
    const claimed = await claimOne(place.store, endpoint)
    await place.store.settle([success(place.store, claimed)])
    await until(
      async () => (await storedSchedule(place.store, schedule.name)).lastJobId !== first?.id,
    )
    expect((await jobsAt(endpoint)).map(({ id }) => id)).toEqual([
      first?.id,
      (await storedSchedule(place.store, schedule.name)).lastJobId,
    ])
  })

  it('with overlap skip that holds even for a job that the schedule does not know of yet', async () => {
    const endpoint = await addEndpoint(place.store)
    const schedule = await addSchedule(place.store, endpoint, 100, {}, { overlap: 'skip' })
    const now = place.store.clock.now()
    const source = { ...schedule, settings: readSettings(schedule.settings) }
    const tickBefore = (schedule.nextRunAt as number) - HOUR_MS
    await place.store.enqueue([jobOfTick(source, tickBefore, tickBefore, now)])
    startScheduler(place.store)
    const { lastJobId } = await movedOn(place.store, schedule)
    expect((await jobsAt(endpoint)).map(({ id }) => id)).toEqual([lastJobId])
  })

  it('a run by hand is made though the last job is not final, and holds up no tick', async () => {
    const endpoint = await addEndpoint(place.store)
    const schedule = await addSchedule(place.store, endpoint, 100, {}, { overlap: 'skip' })
    const source = { ...schedule, settings: readSettings(schedule.settings) }
    const byHand = () => place.store.enqueue([jobByHand(source, place.store.clock.now())])
    expect(await byHand()).toMatchObject([{ kind: 'inserted' }])
    startScheduler(place.store)
    const { lastJobId, lastError } = await movedOn(place.store, schedule)
    expect(lastError).toBeNull()
    expect(await byHand()).toMatchObject([{ kind: 'inserted' }])
    const jobs = await jobsAt(endpoint)
    expect(jobs).toHaveLength(3)
    expect(jobs.map(({ id }) => id)).toContain(lastJobId)
  })

  it('for an endpoint that is disabled or gone ticks are skipped, and lastError says so', async () => {
    const disabled = await addEndpoint(place.store)
    const gone = await addEndpoint(place.store)
    const toDisabled = await addSchedule(place.store, disabled, 200)
    const toGone = await addSchedule(place.store, gone, 200)
    await report(place.store, disabled, { goneAtVersion: 1 })
    await place.store.deleteEndpoint(gone, { force: true, ifVersion: null })
    startScheduler(place.store)
    expect((await movedOn(place.store, toDisabled)).lastError).toBe(
      `endpoint "${disabled}" is disabled`,
    )
    expect((await movedOn(place.store, toGone)).lastError).toBe(`there is no endpoint "${gone}"`)
    expect(await jobsAt(disabled)).toEqual([])
  })

  it('one that is paused or removed meanwhile has no tick', async () => {
    const endpoint = await addEndpoint(place.store)
    const paused = await addSchedule(place.store, endpoint, -100)
    await place.store.putSchedule({ ...paused, paused: true }, null)
    const removed = await addSchedule(place.store, endpoint, -100)
    await place.store.deleteSchedule(removed.name, null)
    const other = await addSchedule(place.store, endpoint, -50)
    startScheduler(place.store)
    await movedOn(place.store, other)
    expect(await jobsAt(endpoint)).toMatchObject([{ scheduleName: other.name }])
  })
})
