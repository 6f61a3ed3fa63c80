// The suggested alert rules, evaluated by Prometheus itself. Each alert fires in its own case, and
// in no other case.
import { spawnSync } from 'node:child_process'
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { parse, stringify } from 'yaml'
import { METRICS, type MetricRow } from '../../src/stats/metric-table.ts'

const PATH = join(import.meta.dirname, '../../docs/alerts.yml')
const hasPromtool = spawnSync('promtool', ['--version']).status === 0
if (!hasPromtool) console.log('alerts: skipped, promtool (of Prometheus) is not installed')

interface Rule {
  alert: string
  expr: string
  labels: Record<string, string>
  annotations: Record<string, string>
}

const RULES: Rule[] = parse(readFileSync(PATH, 'utf8')).groups[0].rules

/** A value for each minute; null: there is no sample. */
type Series = (minute: number) => number | null
type AllSeries = Record<string, Series>

/** The minute at which the rules are evaluated. */
const NOW = 180
const always =
  (value: number): Series =>
  () =>
    value
const perMinute =
  (count: number): Series =>
  (minute) =>
    minute * count
/** There is no sample before this minute. From then on the values are those of `series`. */
const from =
  (begin: number, series: Series): Series =>
  (minute) =>
    minute < begin ? null : series(minute)
const until =
  (end: number, series: Series): Series =>
  (minute) =>
    minute > end ? null : series(minute)

const target = (instance: string, more = '') =>
  `{job="posthorn",instance="${instance}",process="${instance.split('-')[0]}"${more}}`
const [API, WORKER, OTHER_WORKER] = ['api', 'worker-1', 'worker-2'] as const

/** Counts a minute: `quick` observations of at most 5 ms, and `slow` ones of 2.5 s. */
function histogram(name: string, instance: string, quick: number, slow: number): AllSeries {
  return {
    [`${name}_bucket${target(instance, ',le="0.005"')}`]: perMinute(quick),
    [`${name}_bucket${target(instance, ',le="1"')}`]: perMinute(quick),
    [`${name}_bucket${target(instance, ',le="2.5"')}`]: perMinute(quick + slow),
    [`${name}_bucket${target(instance, ',le="+Inf"')}`]: perMinute(quick + slow),
    [`${name}_count${target(instance)}`]: perMinute(quick + slow),
  }
}

const attempts = (outcome: string, instance: string = WORKER, endpoint = 'invoices') =>
  `posthorn_attempts_total${target(instance, `,endpoint="${endpoint}",outcome="${outcome}"`)}`
const dead = (instance: string, endpoint = 'invoices', reason = 'rejected') =>
  `posthorn_jobs_dead_total${target(instance, `,endpoint="${endpoint}",reason="${reason}"`)}`
const stale = (instance: string, reason: string) =>
  `posthorn_stale_results_total${target(instance, `,reason="${reason}"`)}`
const up = (instance: string) => `up{job="posthorn",instance="${instance}"}`
const startedAt = (instance: string) => `process_start_time_seconds${target(instance)}`
const LIVE_WORKERS = `posthorn_live_workers${target(API)}`
const STORE_UP = `posthorn_store_up${target(API)}`
const IN_FLIGHT = `posthorn_attempts_in_flight${target(WORKER)}`
const UNSTORED = `posthorn_unstored_outcomes${target(WORKER)}`
const AGE = `posthorn_oldest_due_age_seconds${target(API, ',endpoint="invoices"')}`
const DEAD_JOBS = `posthorn_jobs${target(API, ',endpoint="invoices",state="dead"')}`

/** The metrics of the store, which an API leaves out while the store is away. */
const HELD: AllSeries = {
  [AGE]: always(3),
  [LIVE_WORKERS]: always(2),
  [DEAD_JOBS]: always(4),
  [`posthorn_endpoints${target(API, ',state="active"')}`]: always(5),
  [`posthorn_endpoints${target(API, ',state="paused"')}`]: always(1),
}

/** One API and two workers without problems, with old faults that ended long ago. */
const HEALTHY: AllSeries = {
  ...HELD,
  ...Object.fromEntries([API, WORKER, OTHER_WORKER].map((one) => [up(one), always(1)])),
  ...Object.fromEntries([API, WORKER, OTHER_WORKER].map((one) => [startedAt(one), always(-9_999)])),
  [STORE_UP]: always(1),
  [IN_FLIGHT]: always(20),
  [UNSTORED]: always(2),
  [`posthorn_attempts_in_flight${target(OTHER_WORKER)}`]: always(5),
  [`posthorn_unstored_outcomes${target(OTHER_WORKER)}`]: always(0),
  [`posthorn_worker_concurrency${target(WORKER)}`]: always(50),
  [`posthorn_worker_concurrency${target(OTHER_WORKER)}`]: always(50),
  [attempts('succeeded')]: perMinute(20),
  [attempts('http_error')]: perMinute(3),
  [attempts('succeeded', OTHER_WORKER)]: perMinute(20),
  [dead(WORKER)]: always(4),
  [stale(WORKER, 'lease_lost')]: always(2),
  ...histogram('posthorn_enqueue_duration_seconds', API, 50, 0),
  ...histogram('posthorn_start_delay_seconds', WORKER, 50, 5),
}

const ofInstance = (instance: string) =>
  Object.keys(HEALTHY).filter(
    (name) => name.includes(`instance="${instance}"`) && name !== up(instance),
  )

interface Case {
  is: string
  /** Series that replace healthy ones, or are added to them. */
  series: AllSeries
  /** The alerts that fire, each with its labels other than `severity`. */
  fires: [alert: string, labels: Record<string, string>][]
}

const CASES: Case[] = [
  { is: 'all is well', series: {}, fires: [] },
  {
    is: 'jobs wait and wait',
    series: { [AGE]: (minute) => Math.max(0, minute - 160) * 60 },
    fires: [['PosthornJobsWaitTooLong', { endpoint: 'invoices' }]],
  },
  { is: 'jobs wait for 4 minutes', series: { [AGE]: always(240) }, fires: [] },
  {
    is: 'no worker lives',
    series: { [LIVE_WORKERS]: always(0) },
    fires: [['PosthornNoLiveWorker', {}]],
  },
  {
    is: 'the store takes no writes',
    series: {
      [STORE_UP]: (minute) => (minute < 170 ? 1 : 0),
      ...Object.fromEntries(Object.entries(HELD).map(([name, held]) => [name, until(169, held)])),
    },
    fires: [['PosthornStoreAway', {}]],
  },
  {
    is: 'a worker is gone',
    series: {
      [up(OTHER_WORKER)]: (minute) => (minute < 170 ? 1 : 0),
      ...Object.fromEntries(
        ofInstance(OTHER_WORKER).map((name) => [name, until(169, HEALTHY[name] as Series)]),
      ),
    },
    fires: [['PosthornProcessDown', { job: 'posthorn', instance: OTHER_WORKER }]],
  },
  {
    is: 'a job dies, as others have before',
    series: { [dead(WORKER)]: (minute) => (minute < 150 ? 4 : 5) },
    fires: [['PosthornJobsDie', { endpoint: 'invoices', reason: 'rejected' }]],
  },
  {
    is: 'the first job of an endpoint dies',
    series: { [dead(API, 'new', 'expired')]: from(150, always(1)) },
    fires: [['PosthornJobsDie', { endpoint: 'new', reason: 'expired' }]],
  },
  {
    is: 'a job dies in a worker that was started a moment ago',
    series: {
      [up('worker-3')]: from(160, always(1)),
      [startedAt('worker-3')]: from(160, always(160 * 60)),
      [dead('worker-3')]: from(165, always(1)),
    },
    fires: [['PosthornJobsDie', { endpoint: 'invoices', reason: 'rejected' }]],
  },
  {
    is: 'dead jobs are retried, purged and counted again',
    series: { [DEAD_JOBS]: (minute) => (minute < 150 ? 40 : 40 + (minute % 7) * 5) },
    fires: [],
  },
  {
    is: 'a worker is restarted, and its counters begin again',
    series: {
      [startedAt(WORKER)]: (minute) => (minute < 150 ? -9_999 : 150 * 60),
      [dead(WORKER)]: until(149, always(4)),
      [stale(WORKER, 'lease_lost')]: until(149, always(2)),
    },
    fires: [],
  },
  ...[60, 10].map((ago) => ({
    is: `nothing was scraped ${ago} minutes ago`,
    series: Object.fromEntries(
      Object.entries(HEALTHY).map(([name, series]): [string, Series] => [
        name,
        (minute) => (Math.abs(minute - (NOW - ago)) <= 8 ? null : series(minute)),
      ]),
    ),
    fires: [],
  })),
  {
    is: 'an endpoint that is sent to fails',
    series: { [attempts('http_error')]: perMinute(80) },
    fires: [['PosthornEndpointFails', { endpoint: 'invoices' }]],
  },
  {
    is: 'async and pulled endpoints fail, whoever ends their attempts',
    series: {
      [attempts('failed', API, 'imports')]: perMinute(1),
      [attempts('succeeded', API, 'imports')]: always(100),
      [attempts('timeout', OTHER_WORKER, 'reports')]: perMinute(1),
      [`posthorn_accepted_attempts_total${target(WORKER, ',endpoint="reports"')}`]: perMinute(1),
    },
    fires: [
      ['PosthornEndpointFails', { endpoint: 'imports' }],
      ['PosthornEndpointFails', { endpoint: 'reports' }],
    ],
  },
  {
    is: 'an endpoint throttles, and people cancel',
    series: {
      [attempts('succeeded', WORKER, 'busy')]: perMinute(1),
      [attempts('throttled', WORKER, 'busy')]: perMinute(104),
      [attempts('cancelled', API, 'busy')]: perMinute(10),
      [attempts('interrupted', WORKER, 'busy')]: perMinute(10),
    },
    fires: [],
  },
  {
    is: 'the first attempts at an endpoint fail, all of them',
    series: { [attempts('http_error', WORKER, 'new')]: from(172, always(20)) },
    fires: [['PosthornEndpointFails', { endpoint: 'new' }]],
  },
  {
    is: 'the first attempts at an endpoint succeed, and some fail',
    series: {
      [attempts('http_error', WORKER, 'new')]: from(172, always(8)),
      [attempts('succeeded', WORKER, 'new')]: from(172, always(20)),
    },
    fires: [],
  },
  {
    is: 'a worker is killed, and all its jobs are done later',
    series: {
      [attempts('lost', WORKER, 'slow')]: (minute) => (minute < 172 ? 0 : 30),
      [attempts('succeeded', WORKER, 'slow')]: (minute) => (minute < 172 ? 0 : 20),
    },
    fires: [],
  },
  {
    is: 'one attempt fails',
    series: { [attempts('http_error', WORKER, 'rare')]: (minute) => (minute < 175 ? 7 : 8) },
    fires: [],
  },
  {
    is: 'an endpoint is disabled',
    series: { [`posthorn_endpoints${target(API, ',state="disabled"')}`]: from(170, always(1)) },
    fires: [['PosthornEndpointDisabled', {}]],
  },
  {
    is: 'all slots are taken, and jobs start late',
    series: {
      [IN_FLIGHT]: always(52),
      [`posthorn_attempts_in_flight${target(OTHER_WORKER)}`]: always(50),
      ...histogram('posthorn_start_delay_seconds', WORKER, 5, 50),
    },
    fires: [['PosthornWorkersFull', {}]],
  },
  {
    is: 'all slots are taken, and jobs start at once',
    series: {
      [IN_FLIGHT]: always(52),
      [`posthorn_attempts_in_flight${target(OTHER_WORKER)}`]: always(50),
    },
    fires: [],
  },
  {
    is: 'outcomes pile up, since the store is slow',
    series: {
      [IN_FLIGHT]: always(150),
      [UNSTORED]: always(130),
      ...histogram('posthorn_start_delay_seconds', WORKER, 5, 50),
    },
    fires: [],
  },
  {
    is: 'enqueues are slow',
    series: histogram('posthorn_enqueue_duration_seconds', API, 50, 5),
    fires: [['PosthornEnqueueSlow', {}]],
  },
  {
    is: 'one of a few enqueues is slow',
    series: histogram('posthorn_enqueue_duration_seconds', API, 2, 1),
    fires: [],
  },
  {
    is: 'a worker wakes up and has lost its leases',
    series: { [stale(WORKER, 'lease_lost')]: (minute) => (minute < 175 ? 2 : 9) },
    fires: [['PosthornLeasesLost', { process: 'worker' }]],
  },
  {
    is: 'a handler reports too late for the first time',
    series: { [stale(API, 'lease_lost')]: from(175, always(1)) },
    fires: [['PosthornLeasesLost', { process: 'api' }]],
  },
  {
    is: 'people cancel jobs that run',
    series: {
      [stale(WORKER, 'cancelled')]: perMinute(5),
      [stale(API, 'cancelled')]: from(175, always(5)),
      [attempts('cancelled', API)]: perMinute(5),
    },
    fires: [],
  },
  {
    is: 'a deployment kills a worker amid its attempts',
    series: { [attempts('lost', OTHER_WORKER)]: (minute) => (minute < 175 ? 0 : 30) },
    fires: [],
  },
]

function promtoolTest(one: Case) {
  const series = { ...HEALTHY, ...one.series }
  const minutes = Array.from({ length: NOW + 1 }, (_, minute) => minute)
  return {
    name: one.is,
    interval: '1m',
    input_series: Object.entries(series).map(([name, valueAt]) => ({
      series: name,
      values: minutes.map((minute) => valueAt(minute) ?? '_').join(' '),
    })),
    alert_rule_test: RULES.map(({ alert, labels, annotations }) => ({
      eval_time: `${NOW}m`,
      alertname: alert,
      exp_alerts: one.fires
        .filter(([name]) => name === alert)
        .map(([, own]) => ({ exp_labels: { ...labels, ...own }, exp_annotations: annotations })),
    })),
  }
}

test.skipIf(!hasPromtool)('each fires in its case, and in no other', { timeout: 90_000 }, () => {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-alerts-'))
  onTestFinished(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'test.yml')
  const tests = CASES.map(promtoolTest)
  writeFileSync(file, stringify({ rule_files: [PATH], evaluation_interval: '5m', tests }))
  const { stdout, stderr } = spawnSync('promtool', ['test', 'rules', file], { encoding: 'utf8' })
  // The output contains the failures, with the name of the case.
  expect(`${stdout}${stderr}`.replaceAll(/\s+/g, ' ').trim()).toMatch(/SUCCESS$/)
})

test('each rule has a case in which it fires', () => {
  const fired = new Set(CASES.flatMap(({ fires }) => fires.map(([alert]) => alert)))
  expect(RULES.filter(({ alert }) => !fired.has(alert))).toEqual([])
})

test('each rule asks for metrics, labels and values that there are', () => {
  for (const { alert, expr } of RULES) {
    const names = expr.match(/\b(posthorn_\w+|up|process_start_time_seconds)\b/g) ?? []
    expect([alert, names.length > 0]).toEqual([alert, true])
    for (const name of names.filter((one) => one.startsWith('posthorn_'))) {
      const row = (METRICS as Record<string, MetricRow>)[name.replace(/_(bucket|count|sum)$/, '')]
      expect([alert, name, row !== undefined]).toEqual([alert, name, true])
    }
    const known = new Set<string>(Object.values(METRICS).flatMap(({ labels }) => [...labels]))
    for (const [, label] of expr.matchAll(/(\w+)(?:=|!~|=~|!=)"/g)) {
      expect([
        alert,
        label,
        known.has(label as string) || ['process', 'job'].includes(label as string),
      ]).toEqual([alert, label, true])
    }
  }
})

test('docs/observability.md explains each rule, by its name', () => {
  const page = readFileSync(join(import.meta.dirname, '../../docs/observability.md'), 'utf8')
  const explained = [...page.matchAll(/^\| `(Posthorn\w+)` \|/gm)].map(([, name]) => name)
  expect(explained).toEqual(RULES.map(({ alert }) => alert))
})
