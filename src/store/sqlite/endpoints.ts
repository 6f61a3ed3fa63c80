// Endpoints: their settings and secrets, their pauses, and their health as attempts report it. An
// HTTP response reports each write except that of health, so these writes are durable.

import {
  type DeleteEndpointResult,
  type Endpoint,
  type EndpointCounts,
  type EndpointSettings,
  type PutEndpointResult,
  rotatedSecrets,
  startsDeliveries,
} from '../../endpoint/endpoint.ts'
import { type Health, type HealthReport, healthAfter } from '../../endpoint/health.ts'
import { underNewLimit } from '../../endpoint/rate-bucket.ts'
import { ALARM, NO_TURN } from '../../job/turns.ts'
import { type IfVersion, isMet, type OtherVersion, otherVersion } from '../precondition.ts'
import { MAX_COUNT, type Page } from '../store.ts'
import { decrypted, StoreUnusable } from '../store-errors.ts'
import { ABOVE_ALL, NEXT_PRIORITY } from './claim.ts'
import type { Database } from './connection.ts'
import {
  ENDPOINT_COLUMNS,
  type EndpointRow,
  rampOf,
  sealSecrets,
  toEndpoint,
  validSecrets,
} from './endpoint-row.ts'
import { FORGET_KEYS } from './fairness-keys.ts'
import { mapText, sealHeaders } from './job-row.ts'
import type { KeyRing } from './key-file.ts'
import { applyKeyLimits } from './key-limits.ts'
import { endRests } from './key-rests.ts'
import { FORGET_LIMITS, nameLimits } from './shared-limits.ts'
import { FORGET_LANES } from './turns.ts'

export const ENDPOINT_NAMED = `select ${ENDPOINT_COLUMNS} from endpoints where name = $name`
export const ENDPOINTS_AFTER = `
select ${ENDPOINT_COLUMNS} from endpoints where name > $after order by name limit +$limit`

/** Keeps everything else: pause, disabling, rest, counts. */
export const PUT_ENDPOINT = `
insert into endpoints (name, bucket_full_at, concurrency, rate_count, rate_per_ms,
  per_key, limits, breaker_failures, breaker_cooldown_ms, max_attempts, timeout_ms, completion,
  completion_timeout_ms, created_at, updated_at, version, on_finish, url, description, headers,
  retry, statuses, secrets)
values ($name, $bucketFullAt, $concurrency, $rateCount, $ratePerMs, $perKey, $limits,
  $breakerFailures, $breakerCooldownMs, $maxAttempts, $timeoutMs, $completion, $completionTimeoutMs,
  $now, $now, 1, $onFinish, $url, $description, $headers, $retry, $statuses, $secrets)
on conflict (name) do update set bucket_full_at = excluded.bucket_full_at,
  concurrency = excluded.concurrency, rate_count = excluded.rate_count,
  rate_per_ms = excluded.rate_per_ms, per_key = excluded.per_key,
  limits = excluded.limits, breaker_failures = excluded.breaker_failures,
  breaker_cooldown_ms = excluded.breaker_cooldown_ms, max_attempts = excluded.max_attempts,
  timeout_ms = excluded.timeout_ms, completion = excluded.completion,
  completion_timeout_ms = excluded.completion_timeout_ms, updated_at = excluded.updated_at,
  version = version + 1, on_finish = excluded.on_finish, url = excluded.url,
  description = excluded.description, headers = excluded.headers, retry = excluded.retry,
  statuses = excluded.statuses, secrets = excluded.secrets`
/** Removing the circuit breaker ends its rest at once. */
export const FORGET_BREAKER = `
update endpoints set failure_count = 0, ramp_slots = iif(rest_by_breaker = 1, null, ramp_slots),
  ramp_ends_at = iif(rest_by_breaker = 1, null, ramp_ends_at),
  resting_until = iif(rest_by_breaker = 1, null, resting_until), rest_by_breaker = 0
where name = $name`
/** Resets the health of a pulled endpoint: nothing is sent to it, so nothing would end its rest. */
export const FORGET_HEALTH = `
update endpoints set resting_until = null, rest_by_breaker = 0, throttle_streak = 0,
  failure_count = 0, ramp_slots = null, ramp_ends_at = null
where name = $name`

const IN_LANE = 'claimable = 1 and endpoint = $endpoint and priority = $priority'
export const FREE_ONE = `
update jobs set due_at = $now where seq = coalesce(
  (select seq from jobs where ${IN_LANE} and turn > ${NO_TURN} order by turn limit 1),
  (select seq from jobs where ${IN_LANE} and turn = ${NO_TURN} and run_at <= $now
    order by run_at limit 1),
  (select seq from jobs where ${IN_LANE} and turn = ${ALARM} and run_at <= $now
    order by run_at limit 1))`

/** An endpoint that was paused before keeps its version. */
export const PAUSE = `
update endpoints set paused = 1,
  updated_at = case when paused = 0 then $now else updated_at end, version = version + (paused = 0)
where name = $name and deleting = 0`
/** The other columns that a resume resets are counts, which never raise a version. */
const IS_STOPPED = '(paused = 1 or disabled_reason is not null or resting_until is not null)'
export const RESUME = `
update endpoints set paused = 0, disabled_reason = null, resting_until = null,
  rest_by_breaker = 0, throttle_streak = 0, failure_count = 0, ramp_slots = null,
  ramp_ends_at = null, updated_at = case when ${IS_STOPPED} then $now else updated_at end,
  version = version + ${IS_STOPPED}
where name = $name and deleting = 0`
export const ROTATE = `
update endpoints set secrets = $secrets, updated_at = $now, version = version + 1
where name = $name and deleting = 0`

export const HEALTH_OF = `
select version, failure_count, breaker_failures, breaker_cooldown_ms, resting_until,
  rest_by_breaker, throttle_streak, ramp_slots, ramp_ends_at
from endpoints where name = $endpoint`
/** The row was read in the same transaction. */
export const WRITE_HEALTH = `
update endpoints set version = $version, failure_count = $failureCount,
  resting_until = $restingUntil, rest_by_breaker = $restByBreaker,
  throttle_streak = $throttleStreak, ramp_slots = $rampSlots, ramp_ends_at = $rampEndsAt,
  disabled_reason = coalesce($disabledReason, disabled_reason),
  updated_at = coalesce($updatedAt, updated_at)
where name = $endpoint`

const DELETE_ENDPOINT = 'delete from endpoints where name = $name'
const MARK_DELETING = `
update endpoints set deleting = 1, updated_at = $now, version = version + 1
where name = $name and deleting = 0`
export const SCHEDULE_OF_ENDPOINT = `
select name from schedules where endpoint = $name order by name limit 1`

export const COUNT_CLAIMABLE = `
select count(*) as count from (
  select 1 from jobs where claimable = 1 and endpoint = $name limit ${MAX_COUNT + 1})`
export const COUNT_BLOCKED = `
select count(*) as count from (
  select 1 from jobs where blocked = 1 and endpoint = $name limit ${MAX_COUNT + 1})`
export const COUNT_OUTSIDE = `
select count(*) as count from (
  select 1 from jobs where blocked = 2 and endpoint = $name limit ${MAX_COUNT + 1})`
export const COUNT_RUNNING = `
select count(*) as count from (
  select 1 from jobs where state = 'running' and endpoint = $name limit ${MAX_COUNT + 1})`

/** One statement reads one snapshot: a job that is claimed meanwhile is in one of the counts. */
const COUNT_JOBS = `
select (${COUNT_CLAIMABLE}) as claimable, (${COUNT_BLOCKED}) as blocked,
  (${COUNT_OUTSIDE}) as outside,
  (${COUNT_RUNNING}) as running`

export async function putEndpoint(
  database: Database,
  settings: EndpointSettings,
  secrets: { given: string | null; fresh: string },
  ifVersion: IfVersion,
): Promise<PutEndpointResult> {
  let isFreed = false
  const result = await database.connection.write('full', (): PutEndpointResult => {
    const row = findRow(database, settings.name)
    if (row?.deleting === 1) return { kind: 'being_deleted' }
    const version = row?.version ?? null
    if (!isMet(ifVersion, version)) return { kind: 'stale', version }
    const refusal = nameLimits(database, settings.name, settings.limits)
    if (refusal !== null) return refusal
    write(database, settings, secrets, row)
    const endpoint = find(database, settings.name) as Endpoint
    const isLimitChanged = row !== null && row.per_key !== perKeyText(settings)
    if (isLimitChanged) applyKeyLimits(database, settings.name)
    if (settings.url === null) endRests(database, settings.name)
    const isPushed = startsDeliveries(row, settings)
    if (isPushed) noteFreed(database, settings.name)
    isFreed = isLimitChanged || isPushed
    return { kind: row === null ? 'created' : 'replaced', endpoint }
  })
  if (isFreed) database.notifier.notifyWork()
  return result
}

/** Notes on one due job that it is due since now, so that workers look at the endpoint. */
function noteFreed({ connection, clock }: Database, endpoint: string): void {
  const now = clock.now()
  for (let below = ABOVE_ALL; ; ) {
    const next = connection.ordered(NEXT_PRIORITY).get(endpoint, below)
    const priority = (next?.priority ?? null) as number | null
    if (priority === null) return
    if (connection.statement(FREE_ONE).run({ endpoint, priority, now }).changes === 1) return
    below = priority
  }
}

function write(
  { connection, clock, keys }: Database,
  settings: EndpointSettings,
  { given, fresh }: { given: string | null; fresh: string },
  row: EndpointRow | null,
): void {
  const { name, rateLimit, circuitBreaker } = settings
  const now = clock.now()
  const before = row === null ? [] : secretsBefore(row, keys, now, given)
  const newest = given ?? before[0]?.secret ?? fresh
  // A PUT that repeats the current secret ends no overlap.
  const kept = newest === before[0]?.secret ? before : [{ secret: newest, until: null }]
  const { url, description, concurrency, timeoutMs, completion, completionTimeoutMs } = settings
  connection.statement(PUT_ENDPOINT).run({
    ...{ name, now, url, description, concurrency, timeoutMs, completion, completionTimeoutMs },
    bucketFullAt: bucketUnder(settings, row, now),
    ...{ rateCount: rateLimit?.count ?? null, ratePerMs: rateLimit?.perMs ?? null },
    perKey: perKeyText(settings),
    limits: settings.limits.length === 0 ? null : JSON.stringify(settings.limits),
    breakerFailures: circuitBreaker?.failures ?? null,
    breakerCooldownMs: circuitBreaker?.cooldownMs ?? null,
    ...{ maxAttempts: settings.retry.maxAttempts, retry: JSON.stringify(settings.retry) },
    onFinish: settings.onFinish === null ? null : JSON.stringify(settings.onFinish),
    headers: sealHeaders(settings.headers, name, keys),
    statuses: mapText(settings.statuses),
    secrets: sealSecrets(kept, name, keys),
  })
  if (settings.url === null) connection.statement(FORGET_HEALTH).run({ name })
  else if (circuitBreaker === null) connection.statement(FORGET_BREAKER).run({ name })
}

function perKeyText({ perKey }: EndpointSettings): string | null {
  return perKey === null ? null : JSON.stringify(perKey)
}

/** A given secret also replaces those that no key decrypts. */
function secretsBefore(row: EndpointRow, keys: KeyRing, now: number, given: string | null) {
  try {
    return validSecrets(row, keys, now)
  } catch (error) {
    if (given === null || !(error instanceof StoreUnusable)) throw error
    return []
  }
}

function bucketUnder(
  { rateLimit }: EndpointSettings,
  row: EndpointRow | null,
  now: number,
): number | null {
  if (rateLimit === null || row?.rate_count == null || row.rate_per_ms === null) return null
  const before = { count: row.rate_count, perMs: row.rate_per_ms }
  return underNewLimit(before, rateLimit, row.bucket_full_at, now)
}

export function pauseEndpoint(
  database: Database,
  name: string,
  ifVersion: number | null = null,
): Promise<Endpoint | OtherVersion | null> {
  return run(database, PAUSE, name, ifVersion)
}

export async function resumeEndpoint(
  database: Database,
  name: string,
  ifVersion: number | null = null,
): Promise<Endpoint | OtherVersion | null> {
  const endpoint = await run(database, RESUME, name, ifVersion)
  database.notifier.notifyWork()
  return endpoint
}

function run(
  database: Database,
  change: typeof PAUSE | typeof RESUME,
  name: string,
  ifVersion: number | null,
): Promise<Endpoint | OtherVersion | null> {
  const { connection, clock } = database
  return connection.write('full', () => {
    const other = otherVersion(findRow(database, name), ifVersion)
    if (other !== null) return other
    const stored = find(database, name)
    // An endpoint that is being deleted does not change.
    if (stored === null || stored.deleting) return stored
    decrypted(stored)
    connection.statement(change).run({ name, now: clock.now() })
    if (change === RESUME) endRests(database, name)
    return find(database, name)
  })
}

export function rotateSecret(
  database: Database,
  name: string,
  secret: string,
  overlapMs: number,
  ifVersion: number | null = null,
): Promise<Endpoint | OtherVersion | { fullUntil: number } | null> {
  const { connection, clock, keys } = database
  return connection.write('full', () => {
    const row = findRow(database, name)
    if (row === null) return null
    const other = otherVersion(row, ifVersion)
    if (other !== null) return other
    const now = clock.now()
    decrypted(toEndpoint(row, keys, now))
    const newest = { secret, until: null }
    const secrets = rotatedSecrets(validSecrets(row, keys, now), newest, overlapMs, now)
    if ('fullUntil' in secrets) return secrets
    connection.statement(ROTATE).run({ name, now, secrets: sealSecrets(secrets, name, keys) })
    return find(database, name)
  })
}

interface HealthRow {
  version: number
  failure_count: number
  breaker_failures: number | null
  breaker_cooldown_ms: number | null
  resting_until: number | null
  rest_by_breaker: number
  throttle_streak: number
  ramp_slots: number | null
  ramp_ends_at: number | null
}

export async function reportHealth(database: Database, reports: HealthReport[]): Promise<void> {
  if (reports.length === 0) return
  const { connection, clock, notifier } = database
  await connection.write('normal', () => {
    const now = clock.now()
    for (const report of reports) {
      const row = connection.statement(HEALTH_OF).get({ endpoint: report.endpoint }) as
        | HealthRow
        | undefined
      if (row !== undefined) writeHealth(database, row, report, now)
    }
  })
  if (reports.some(({ succeeded }) => succeeded.length > 0)) notifier.notifyWork()
}

function writeHealth(
  { connection }: Database,
  row: HealthRow,
  report: HealthReport,
  now: number,
): void {
  const { breaker_failures, breaker_cooldown_ms } = row
  const breaker =
    breaker_failures === null || breaker_cooldown_ms === null
      ? null
      : { failures: breaker_failures, cooldownMs: breaker_cooldown_ms }
  const before: Health = {
    version: row.version,
    isGone: false,
    restingUntil: row.resting_until,
    restCause: restCauseOf(row),
    throttleStreak: row.throttle_streak,
    failureCount: row.failure_count,
    ramp: rampOf(row),
  }
  const after = healthAfter(before, report, breaker, now)
  const { version, failureCount, restingUntil, restCause, throttleStreak, ramp, isGone } = after
  connection.statement(WRITE_HEALTH).run({
    ...{ endpoint: report.endpoint, version, failureCount, restingUntil, throttleStreak },
    restByBreaker: restCause === 'breaker' ? 1 : 0,
    ...{ rampSlots: ramp?.slots ?? null, rampEndsAt: ramp?.endsAt ?? null },
    ...{ disabledReason: isGone ? 'gone' : null, updatedAt: isGone ? now : null },
  })
}

function restCauseOf({ resting_until, rest_by_breaker }: HealthRow): Health['restCause'] {
  if (resting_until === null) return null
  return rest_by_breaker === 1 ? 'breaker' : 'throttle'
}

export function endpointsNamed(database: Database, names: string[]): Promise<Endpoint[]> {
  return database.connection.read(() =>
    [...new Set(names)].map((name) => find(database, name)).filter((endpoint) => endpoint !== null),
  )
}

export function listEndpoints(
  { connection, clock, keys }: Database,
  after: string | null,
  limit: number,
): Promise<Page<Endpoint>> {
  return connection.read(() => {
    const now = clock.now()
    const rows = connection.statement(ENDPOINTS_AFTER).all({ after: after ?? '', limit: limit + 1 })
    const items = (rows as unknown as EndpointRow[])
      .slice(0, limit)
      .map((row) => toEndpoint(row, keys, now))
    return { items, next: rows.length > limit ? (items.at(-1)?.name ?? null) : null }
  })
}

export function countJobs(database: Database, names: string[]): Promise<EndpointCounts[]> {
  return database.connection.read(() => names.map((name) => countOne(database, name)))
}

export function deleteEndpoint(
  database: Database,
  name: string,
  options: { force: boolean; ifVersion: number | null },
): Promise<DeleteEndpointResult> {
  const { connection, clock } = database
  return connection.write('full', () => {
    const stored = findRow(database, name)
    if (stored === null) return { kind: 'not_found' }
    if (options.ifVersion !== null && stored.version !== options.ifVersion) {
      return { kind: 'stale', version: stored.version }
    }
    if (stored.deleting === 1) return { kind: 'deleting' }
    if (options.force) {
      connection.statement(MARK_DELETING).run({ name, now: clock.now() })
      return { kind: 'deleting' }
    }
    const counts = countOne(database, name)
    const schedule = connection.statement(SCHEDULE_OF_ENDPOINT).get({ name })?.name as
      | string
      | undefined
    if (counts.queued > 0 || counts.running > 0 || schedule !== undefined) {
      return { kind: 'in_use', counts, scheduleName: schedule ?? null }
    }
    connection.statement(DELETE_ENDPOINT).run({ name })
    for (const sql of [FORGET_LANES, FORGET_KEYS, FORGET_LIMITS]) {
      connection.statement(sql).run({ endpoint: name })
    }
    return { kind: 'deleted' }
  })
}

function countOne(database: Database, name: string): EndpointCounts {
  const { claimable, outside, blocked, running } = countRow(database, name)
  const queued = claimable + outside + blocked
  return {
    queued: Math.min(queued, MAX_COUNT),
    running: Math.min(running, MAX_COUNT),
    more: queued > MAX_COUNT || running > MAX_COUNT,
  }
}

/** Returns counts of at most MAX_COUNT + 1 each. */
export function countRow({ connection }: Database, name: string) {
  return connection.statement(COUNT_JOBS).get({ name }) as Record<
    'claimable' | 'outside' | 'blocked' | 'running',
    number
  >
}

function findRow({ connection }: Database, name: string): EndpointRow | null {
  return (connection.statement(ENDPOINT_NAMED).get({ name }) as EndpointRow | undefined) ?? null
}

function find(database: Database, name: string): Endpoint | null {
  const row = findRow(database, name)
  return row === null ? null : toEndpoint(row, database.keys, database.clock.now())
}
