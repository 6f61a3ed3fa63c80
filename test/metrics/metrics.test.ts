import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { METRICS, type MetricRow } from '../../src/stats/metric-table.ts'
import {
  createApiMetrics,
  createWorkerMetrics,
  type EndpointStats,
} from '../../src/stats/metrics.ts'

const apiMetrics = () => createApiMetrics(() => 7)
const workerMetrics = () =>
  createWorkerMetrics({
    concurrency: 5,
    unsettledCount: () => 3,
    unstoredCount: () => 1,
    commandCount: () => 9,
  })

function statsOf(name: string, more: Partial<EndpointStats> = {}): EndpointStats {
  return {
    name,
    state: 'active',
    queued: 0,
    due: 0,
    running: 0,
    dead: 0,
    keysDue: 0,
    oldestDueAt: null,
    more: false,
    ...more,
  }
}

/** The samples of one metric: its labels except `process`, and its value. */
function samples(text: string, name: string): Record<string, number> {
  const found = [...text.matchAll(new RegExp(`^${name}(?:\\{(.*)\\})? (\\S+)$`, 'gm'))]
  return Object.fromEntries(
    found.map(([, labels = '', value]) => [
      labels
        .split(',')
        .filter((label) => !label.startsWith('process='))
        .join(','),
      Number(value),
    ]),
  )
}

describe('the metrics of an API', () => {
  it('count jobs by endpoint and state, and say how long the oldest due one has waited', async () => {
    const { text } = await apiMetrics().text({
      asOf: 10_000,
      liveWorkers: 2,
      deleted: [],
      more: true,
      endpoints: [
        statsOf('a', { queued: 4, due: 3, running: 2, dead: 1, oldestDueAt: 7_500 }),
        statsOf('b', { state: 'paused' }),
      ],
    })
    expect(samples(text, 'posthorn_jobs')).toEqual({
      'endpoint="a",state="queued"': 4,
      'endpoint="a",state="running"': 2,
      'endpoint="a",state="dead"': 1,
      'endpoint="b",state="queued"': 0,
      'endpoint="b",state="running"': 0,
      'endpoint="b",state="dead"': 0,
    })
    expect(samples(text, 'posthorn_due_jobs')).toEqual({ 'endpoint="a"': 3, 'endpoint="b"': 0 })
    expect(samples(text, 'posthorn_oldest_due_age_seconds')).toEqual({
      'endpoint="a"': 2.5,
      'endpoint="b"': 0,
    })
    expect(samples(text, 'posthorn_endpoints')).toEqual({
      'state="active"': 1,
      'state="paused"': 1,
    })
    expect(samples(text, 'posthorn_live_workers')).toEqual({ '': 2 })
    expect(samples(text, 'posthorn_store_up')).toEqual({ '': 1 })
    expect(samples(text, 'posthorn_store_commands_total')).toEqual({ '': 7 })
  })

  it('count the fairness keys of endpoints that have had some', async () => {
    const metrics = apiMetrics()
    const keysDue = async (...endpoints: EndpointStats[]) => {
      const snapshot = { asOf: 0, liveWorkers: 0, deleted: [], more: false, endpoints }
      return samples((await metrics.text(snapshot)).text, 'posthorn_keys_due')
    }
    const plain = statsOf('plain', { queued: 1, due: 1 })
    expect(await keysDue(plain, statsOf('a'))).toEqual({})
    expect(await keysDue(plain, statsOf('a', { keysDue: 41 }))).toEqual({ 'endpoint="a"': 41 })
    expect(await keysDue(plain, statsOf('a'))).toEqual({ 'endpoint="a"': 0 })
    expect(await keysDue(plain)).toEqual({})
    expect(await keysDue(plain, statsOf('a'))).toEqual({})
  })

  it('count the dead jobs of endpoints that were deleted, behind those that there are', async () => {
    const deleted = [{ name: 'gone', dead: 7, more: false }]
    const few = { asOf: 0, liveWorkers: 0, more: false, deleted, endpoints: [statsOf('a')] }
    const endpoints = Array.from({ length: 100 }, (_, i) => statsOf(`endpoint-${i}`))
    const dead = async (snapshot: Parameters<ReturnType<typeof apiMetrics>['text']>[0]) =>
      samples((await apiMetrics().text(snapshot)).text, 'posthorn_jobs')
    expect(await dead(few)).toMatchObject({
      'endpoint="a",state="dead"': 0,
      'endpoint="gone",state="dead"': 7,
    })
    const many = await dead({ ...few, endpoints })
    expect(many['endpoint="other",state="dead"']).toBe(7)
    expect(many).not.toHaveProperty('endpoint="gone",state="dead"')
  })

  it('forget what the last look at the store no longer found', async () => {
    const metrics = apiMetrics()
    await metrics.text({
      asOf: 0,
      liveWorkers: 1,
      deleted: [],
      more: false,
      endpoints: [statsOf('gone', { queued: 1 })],
    })
    const { text } = await metrics.text({
      asOf: 0,
      liveWorkers: 1,
      deleted: [],
      more: false,
      endpoints: [],
    })
    expect(text).not.toContain('"gone"')
  })

  it('say that the store is away, and then nothing of what it holds', async () => {
    const metrics = apiMetrics()
    await metrics.text({
      asOf: 0,
      liveWorkers: 1,
      deleted: [],
      more: false,
      endpoints: [statsOf('a')],
    })
    const { text } = await metrics.text(null)
    expect(samples(text, 'posthorn_store_up')).toEqual({ '': 0 })
    for (const name of ['posthorn_live_workers', 'posthorn_jobs', 'posthorn_endpoints'])
      expect(samples(text, name)).toEqual({})
  })

  it('stay bounded however many endpoints there are: all beyond 100 are one', async () => {
    const endpoints = Array.from({ length: 1_000 }, (_, i) =>
      statsOf(`endpoint-${String(i).padStart(4, '0')}`, { queued: 1, oldestDueAt: 5_000 - i }),
    )
    const { text } = await apiMetrics().text({
      asOf: 5_000,
      liveWorkers: 0,
      deleted: [],
      more: false,
      endpoints,
    })
    const queued = Object.entries(samples(text, 'posthorn_jobs')).filter(([labels]) =>
      labels.includes('queued'),
    )
    expect(queued).toHaveLength(101)
    expect(Object.fromEntries(queued)['endpoint="other",state="queued"']).toBe(900)
    expect(samples(text, 'posthorn_oldest_due_age_seconds')['endpoint="other"']).toBe(0.999)
  })

  it('count requests by pattern, never by path', async () => {
    const metrics = apiMetrics()
    metrics.onRequest('GET', '/jobs/:id', 200, 12)
    metrics.onRequest('GET', '/jobs/:id', 200, 12)
    metrics.onRequest('GET', undefined, 404, 1)
    metrics.onRequest('PROPFIND', undefined, 404, 1)
    metrics.onRefused(400, 'POST')
    metrics.onRefused(400)
    const { text } = await metrics.text(null)
    expect(samples(text, 'posthorn_http_requests_total')).toEqual({
      'method="GET",route="/jobs/:id",status="200"': 2,
      'method="GET",route="none",status="404"': 1,
      'method="other",route="none",status="404"': 1,
      'method="POST",route="none",status="400"': 1,
      'method="other",route="none",status="400"': 1,
    })
    expect(samples(text, 'posthorn_http_request_duration_seconds_sum')).toEqual({
      'method="GET",route="/jobs/:id"': 0.024,
      'method="GET",route="none"': 0.001,
      'method="other",route="none"': 0.001,
    })
  })

  it('measure enqueues in seconds, and batches in jobs', async () => {
    const metrics = apiMetrics()
    metrics.onEnqueued('inserted', 250)
    metrics.onEnqueued('existing', 250)
    metrics.onBatch(2)
    const { text } = await metrics.text(null)
    expect(samples(text, 'posthorn_enqueue_duration_seconds_sum')).toEqual({ '': 0.5 })
    expect(samples(text, 'posthorn_enqueued_jobs_total')).toEqual({
      'result="inserted"': 1,
      'result="existing"': 1,
    })
    expect(samples(text, 'posthorn_batch_size_sum')).toEqual({ 'kind="enqueue"': 2 })
  })
})

describe('the metrics of a worker', () => {
  it('count attempts by endpoint and outcome, and how late they began', async () => {
    const metrics = workerMetrics()
    metrics.onStarted(1_500)
    metrics.onStarted(-3)
    metrics.onAttempt('a', 'succeeded', 500)
    metrics.onAttempt('a', 'timeout', 1_500)
    metrics.onStale('lease_lost')
    metrics.onDead('a', 'attempts_exhausted')
    metrics.onAccepted('a')
    metrics.onBatch('claim', 3)
    metrics.onBatch('settle', 4)
    metrics.onSwept({ reclaimed: 2, expired: 0 })
    const { text } = await metrics.text()
    expect(samples(text, 'posthorn_start_delay_seconds_sum')).toEqual({ '': 1.5 })
    expect(samples(text, 'posthorn_attempts_total')).toEqual({
      'endpoint="a",outcome="succeeded"': 1,
      'endpoint="a",outcome="timeout"': 1,
    })
    expect(samples(text, 'posthorn_attempt_duration_seconds_sum')).toEqual({ 'endpoint="a"': 2 })
    expect(samples(text, 'posthorn_stale_results_total')).toEqual({ 'reason="lease_lost"': 1 })
    expect(samples(text, 'posthorn_jobs_dead_total')).toEqual({
      'endpoint="a",reason="attempts_exhausted"': 1,
    })
    expect(samples(text, 'posthorn_accepted_attempts_total')).toEqual({ 'endpoint="a"': 1 })
    expect(samples(text, 'posthorn_batch_size_sum')).toEqual({
      'kind="claim"': 3,
      'kind="settle"': 4,
    })
    expect(samples(text, 'posthorn_swept_jobs_total')).toMatchObject({ 'finding="reclaimed"': 2 })
    expect(samples(text, 'posthorn_attempts_in_flight')).toEqual({ '': 3 })
    expect(samples(text, 'posthorn_unstored_outcomes')).toEqual({ '': 1 })
    expect(samples(text, 'posthorn_worker_concurrency')).toEqual({ '': 5 })
  })

  it('stay bounded: the 101st endpoint and all after it are one', async () => {
    const metrics = workerMetrics()
    for (let i = 0; i < 250; i++) metrics.onAttempt(`endpoint-${i}`, 'succeeded', 1)
    const attempts = samples((await metrics.text()).text, 'posthorn_attempts_total')
    expect(Object.keys(attempts)).toHaveLength(101)
    expect(attempts['endpoint="other",outcome="succeeded"']).toBe(150)
  })
})

describe('every metric', () => {
  const rows: [string, MetricRow][] = Object.entries(METRICS)

  it('follows the conventions of Prometheus: counters end in _total, times are in seconds', () => {
    for (const [name, { type, help }] of rows) {
      expect(name).toMatch(/^posthorn_[a-z_]+$/)
      expect(name.endsWith('_total')).toBe(type === 'counter')
      expect(name).not.toMatch(/_ms\b|milli/)
      expect(help).toMatch(/\.$/)
    }
  })

  it('stands in docs/observability.md, and nothing else does', () => {
    const page = readFileSync(`${import.meta.dirname}/../../docs/observability.md`, 'utf8')
    const described = [
      ...page.matchAll(/^\| `(posthorn_\w+)` +\| (\w+) +\| (\w+) +\| (.*?) +\| (.*?) +\|$/gm),
    ]
    expect(described.map(([, ...cells]) => cells)).toEqual(
      rows.map(([name, { type, process, labels, help }]) => [
        name,
        type,
        process,
        labels.map((label) => `\`${label}\``).join(', '),
        help,
      ]),
    )
  })

  it('comes from the process that the table says', async () => {
    const api = (
      await apiMetrics().text({ asOf: 0, liveWorkers: 0, deleted: [], more: false, endpoints: [] })
    ).text
    const worker = (await workerMetrics().text()).text
    for (const [name, { process }] of rows) {
      const shown = `# TYPE ${name} `
      expect([name, api.includes(shown)]).toEqual([name, process !== 'worker'])
      expect([name, worker.includes(shown)]).toEqual([name, process !== 'api'])
    }
  })
})
