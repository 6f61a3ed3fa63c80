// The checker finds no violation in a healthy history. It reports each corruption of one under the
// right invariant.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { check, figuresOf } from './checker.ts'
import { type History, INVARIANTS } from './history.ts'
import { DAMAGES as DAMAGES_IN_COUNT } from './history-corruptions.ts'
import { DAMAGES_IN_TIME } from './history-corruptions-in-time.ts'
import { createHistory, FATES, groupAll, jobWith, letNeed } from './synthetic-history.ts'

const DAMAGES = [...DAMAGES_IN_COUNT, ...DAMAGES_IN_TIME]
const JOBS = 20 * FATES.length

describe('a healthy history', () => {
  test('breaks no invariant, whatever befell its jobs', () => {
    const history = createHistory(JOBS)
    expect(new Set(history.synthetic.map(({ fate }) => fate))).toEqual(new Set(FATES))
    expect(check(history)).toEqual([])
  })

  test('breaks none either when its logs come in any order', () => {
    const history = createHistory(JOBS)
    for (const list of [history.calls, history.sightings, history.deliveries, history.faults]) {
      list.reverse()
    }
    history.records.reverse()
    expect(check(history)).toEqual([])
  })

  test('breaks none when its jobs are members of a group', () => {
    const history = createHistory(JOBS)
    groupAll(history)
    expect(check(history)).toEqual([])
  })

  test('breaks none when a job has brought the results of an earlier one', () => {
    const history = createHistory(JOBS)
    letNeed(jobWith(history, 'done'), jobWith(history, 'retried'))
    expect(check(history)).toEqual([])
  })

  test('may have instants of a turned clock in its records when that clock is the store’s', () => {
    const history = createHistory(JOBS)
    history.engine = 'sqlite'
    history.faults.push({ kind: 'clock', target: 'worker-1', beganAtMs: 1, endedAtMs: 2 })
    for (const record of history.records) {
      record.finishedAt = (record.finishedAt as number) - 86_400_000
      for (const attempt of record.attempts) attempt.startedAt += 7_200_000
    }
    for (const delivery of history.deliveries) delivery.timestampSeconds += 7_200
    expect(check(history)).toEqual([])
  })
})

describe('a damaged history', () => {
  test.each(DAMAGES)('$breaks: $what', ({ breaks, fate, do: damage }) => {
    const history = createHistory(2 * FATES.length)
    damage(jobWith(history, fate), history)
    const violations = check(history)
    expect(violations).not.toEqual([])
    expect(violations.filter(({ invariant }) => invariant !== breaks)).toEqual([])
  })

  test('of each kind is tried in at least two ways', () => {
    for (const id of Object.keys(INVARIANTS)) {
      expect(DAMAGES.filter(({ breaks }) => breaks === id).length).toBeGreaterThanOrEqual(2)
    }
  })

  test('is reported in a bounded text', () => {
    const history = createHistory(JOBS)
    history.records = []
    const violations = check(history).filter(({ invariant }) => invariant === 'I1')
    expect(violations).toHaveLength(21)
    expect(violations.at(-1)?.message).toMatch(/^and \d+ more$/)
  })

  test('spreads no secret that it found', () => {
    const history = createHistory(1)
    history.texts.push({ from: 'metrics', text: history.secrets.join(' ') })
    const report = JSON.stringify(check(history))
    expect(report).toContain('metrics')
    for (const secret of history.secrets) expect(report).not.toContain(secret)
  })
})

describe('what may look wrong and is not', () => {
  const withJob = (fate: Parameters<typeof jobWith>[1]) => {
    const history = createHistory(2 * FATES.length)
    return { history, job: jobWith(history, fate) }
  }

  test('a retry whose response never came may have worked', () => {
    const { history, job } = withJob('retried')
    Object.assign(job.calls.at(-1) as object, { status: null })
    expect(check(history)).toEqual([])
  })

  test('a job whose deletion got no response may be gone or there', () => {
    const { history, job } = withJob('deleted')
    Object.assign(job.calls.at(-1) as object, { status: null })
    expect(check(history)).toEqual([])
    history.records.push(job.record)
    expect(check(history)).toEqual([])
  })

  test('work of which no call got a response may have become no job', () => {
    const { history, job } = withJob('cancelled_waiting')
    history.calls = history.calls.filter((call) => !job.calls.includes(call))
    history.calls.push({ ...(job.calls[0] as History['calls'][0]), status: 503, jobId: null })
    history.sightings = history.sightings.filter(({ jobId }) => jobId !== job.id)
    history.records = history.records.filter(({ id }) => id !== job.id)
    expect(check(history)).toEqual([])
  })

  test('a power cut may undo an attempt, whose number is then given again', () => {
    const { history, job } = withJob('done')
    const again = job.deliveries[0] as History['deliveries'][0]
    const undone = { ...again, beganAtMs: again.beganAtMs - 3, answeredAtMs: again.beganAtMs - 2 }
    history.deliveries.push(undone)
    again.fence += 1_000
    job.record.fence += 1_000
    expect(new Set(check(history).map(({ invariant }) => invariant))).toEqual(new Set(['I5', 'I8']))
    const cut = { beganAtMs: undone.beganAtMs - 1, endedAtMs: undone.answeredAtMs }
    history.faults.push({ kind: 'power_cut', target: 'store', ...cut })
    expect(check(history)).toEqual([])
    undone.fence = again.fence
    expect(check(history).map(({ invariant }) => invariant)).toEqual(['I4'])
  })

  test('a request arrives after its lease if its worker was killed before', () => {
    const { history, job } = withJob('killed_unanswered')
    const [lost, next] = job.deliveries as [History['deliveries'][0], History['deliveries'][0]]
    const death = history.faults.find(({ target }) => target === `worker-${job.workNumber}`)
    Object.assign(lost, { beganAtMs: next.beganAtMs + 900, brokenOffAtMs: next.beganAtMs + 905 })
    expect(check(history)).toEqual([])
    Object.assign(death as object, { kind: 'store_cut', target: 'store' })
    const invariants = check(history).map(({ invariant }) => invariant)
    expect(new Set(invariants)).toEqual(new Set(['I4', 'I7']))
  })

  test('a retry is late while its workers do what became due before it', () => {
    const { history, job } = withJob('failed_once')
    const last = job.deliveries.at(-1) as History['deliveries'][0]
    const busy = jobWith(history, 'done').deliveries[0] as History['deliveries'][0]
    Object.assign(last, { beganAtMs: last.beganAtMs + 4_000, answeredAtMs: last.beganAtMs + 4_012 })
    job.record.finishedAt = last.beganAtMs + 20 + history.epochOffsetMs
    for (const sighting of history.sightings) {
      if (sighting.jobId === job.id && sighting.state === 'succeeded') sighting.sentAtMs = 1e9
      if (sighting.sentAtMs === 1e9) sighting.endedAtMs = 1e9
    }
    expect(check(history).map(({ invariant }) => invariant)).toEqual(['I10'])
    busy.answeredAtMs = last.beganAtMs + 1
    history.records = history.records.map((record) =>
      record.id === busy.jobId
        ? { ...record, finishedAt: last.beganAtMs + 9 + history.epochOffsetMs }
        : record,
    )
    expect(check(history)).toEqual([])
  })
})

describe('the figures', () => {
  test('count what befell the jobs', () => {
    const rounds = JOBS / FATES.length
    const figures = figuresOf(createHistory(JOBS))
    expect(figures).toMatchObject({
      ...{ jobs: JOBS - rounds, accepted: JOBS, lost: 0, doubledUnexplained: 0 },
      ...{ extraDeliveries: rounds, extraExplained: rounds, extraBy: { kill: rounds } },
      ...{ fenceDoubles: 0, mostAttempts: 4, mostCostingAttempts: 3 },
      ...{ givenBack: rounds, resends: rounds },
      redelivery: { lostCount: 4 * rounds, lostByOthersCount: 0, sentAgainCount: 4 * rounds },
    })
    expect(figures.redelivery.longestUndisturbedMs).toBeCloseTo(2_538, 0)
    expect(figures.latenessMs?.p50).toBeGreaterThan(0)
    expect(figures.leastSlackMs).toBeGreaterThanOrEqual(0)
  })

  test('count a lost job, a double of a fence and a 2xx that nothing explains', () => {
    const history = createHistory(FATES.length)
    history.faults = []
    history.records = history.records.filter(({ id }) => id !== jobWith(history, 'done').id)
    const delivery = jobWith(history, 'delayed').deliveries[0] as History['deliveries'][0]
    history.deliveries.push({ ...delivery })
    const figures = figuresOf(history)
    expect(figures).toMatchObject({ lost: 1, fenceDoubles: 1 })
    expect(figures.extraDeliveries - figures.extraExplained).toBe(2)
    expect(figures.doubledUnexplained).toBe(2)
  })
})

test('the checker imports nothing of the product', () => {
  const files = [
    'checker.ts',
    'history.ts',
    ...readdirSync(join(import.meta.dirname, 'invariants')),
  ]
  for (const file of files) {
    const path = file.includes('.ts') && !file.match(/^(checker|history)\.ts$/) ? 'invariants/' : ''
    const text = readFileSync(join(import.meta.dirname, `${path}${file}`), 'utf8')
    for (const [, target] of text.matchAll(/from '([^']+)'/g))
      expect(target).toMatch(/^\.\.?\/[^.]/)
  }
})
