// due finds the endpoints that may have work, without reading every queued job. claim makes due
// jobs running, each with a new fence, in one transaction. Neither reads jobs that are final, in
// the future or of other endpoints.

import { randomBytes } from 'node:crypto'
import { ASK_AGAIN_MS, type Tokens, tokensOf } from '../../endpoint/admission.ts'
import { DEFAULT_WEIGHT, type KeyLimits, MAX_WEIGHT } from '../../endpoint/key-limits.ts'
import type { ClaimedJob } from '../../job/job.ts'
import { type Lane, laneAfter, NO_TURN, PARKED, takeInTurn, turnsToGive } from '../../job/turns.ts'
import type { Claim, Due, EndpointShare, Holder } from '../store.ts'
import { acquireAdmission, releaseAdmission } from './admission.ts'
import { type Database, inOrder, UNKNOWN_BOOT } from './connection.ts'
import { guardOf } from './guards.ts'
import { INPUTS_OF_SEQ } from './inputs.ts'
import { openJobHeaders, originOf, parsed } from './job-row.ts'
import { type Keys, openKeys, parkedUntil, unpark } from './key-limits.ts'
import { openSharedLimits, type SharedLimits } from './shared-limits.ts'
import { giveTurns, laneOf, park, ripen, setLane } from './turns.ts'

/**
 * How many index entries are read for the jobs that became due since the last look. With more, it
 * is cheaper to skip from name to name, which returns every endpoint that has queued jobs.
 */
const MAX_ENTRIES = 1_000

export const DUE_BETWEEN = `
select endpoint from jobs
where claimable = 1 and due_at > $since and due_at <= $now
order by due_at limit ${MAX_ENTRIES}`

/** Counting a thousand rows costs less than returning them. */
export const COUNT_DUE_BETWEEN = `select count(*) as count from (${DUE_BETWEEN})`

/** Each step is one seek in the index, past all jobs of one endpoint. */
export const ALL_QUEUED = `
with recursive named (endpoint) as (
  select min(endpoint) from jobs where claimable = 1
  union all
  select (select min(endpoint) from jobs
    where claimable = 1 and endpoint > named.endpoint)
  from named where named.endpoint is not null)
select endpoint from named where endpoint is not null`

export const NEXT_DUE = `
select due_at as next_at from jobs where claimable = 1 and due_at > $now
order by due_at limit 1`

export function due({ connection, clock }: Database, since: number | null): Promise<Due> {
  return connection.read(() => {
    const now = clock.now()
    const recent = since === null ? null : becameDue(since, now)
    const next = connection.statement(NEXT_DUE).get({ now })
    const nextAt = (next?.next_at as number | undefined) ?? null
    return { endpoints: recent ?? allQueued(), nextAt }
  })

  function becameDue(since: number, now: number): string[] | null {
    const row = connection.statement(COUNT_DUE_BETWEEN).get({ since, now })
    const count = row?.count as number
    if (count >= MAX_ENTRIES) return null
    return distinct(connection.statement(DUE_BETWEEN).all({ since, now }))
  }

  function allQueued(): string[] {
    return distinct(connection.statement(ALL_QUEUED).all())
  }
}

function distinct(rows: Record<string, unknown>[]): string[] {
  return [...new Set(rows.map((row) => row.endpoint as string))]
}

/** The payloads and inputs of one claim are in memory together: it stops when it has so many bytes. */
const MAX_CLAIM_BYTES = 64 * 1024 * 1024
const LEASE_ID_BYTES = 12
/** Keys at their limit that one claim meets in a lane. More are left to the next claim. */
const MAX_PARKED = 1_000
/** Above every priority. */
export const ABOVE_ALL = 1_000

/** The next lower priority that has queued jobs: one seek, for any number of jobs. */
export const NEXT_PRIORITY = inOrder<[endpoint: string, below: number]>(
  ['endpoint', 'below'],
  `select max(priority) as priority from jobs
  where claimable = 1 and endpoint = $endpoint and priority < $below`,
)

const CLAIMED_COLUMNS = `seq, id, fence, payload_bytes, inputs_bytes, attempt_count,
  attempts_left, max_attempts, free_attempts, run_at, promoted_at, first_run_at, expires_at,
  timeout_ms, retry, headers, trace, schedule_name, cost, group_id`

/** Jobs without a fairness key. */
export const CLAIMABLE = inOrder<[now: number, endpoint: string, priority: number, limit: number]>(
  ['now', 'endpoint', 'priority', 'limit'],
  `select ${CLAIMED_COLUMNS} from jobs
  where ${guardOf('claim')} and claimable = 1 and endpoint = $endpoint and priority = $priority
    and turn = ${NO_TURN}
  order by run_at limit +$limit`,
)

/** A job with a turn is due. Its alarm saw to that, or it was due when it was enqueued. */
export const TURNS = inOrder<[now: number, endpoint: string, priority: number, limit: number]>(
  ['now', 'endpoint', 'priority', 'limit'],
  `select ${CLAIMED_COLUMNS}, fairness_key as key, turn as tag, admits_next from jobs
  where ${guardOf('claim')} and claimable = 1 and endpoint = $endpoint and priority = $priority
    and turn > ${NO_TURN} and turn < ${PARKED}
  order by turn limit +$limit`,
)

export const PAYLOAD = inOrder<[seq: number]>(
  ['seq'],
  'select bytes from payloads where seq = $seq',
)

type ClaimValues = [
  ...[now: number, boot: number, leaseId: string, workerId: string],
  ...[leaseMono: number, leaseMs: number, leaseWall: number, pulledMs: number | null],
  ...[fence: number, seq: number],
]

/** CLAIMABLE has proved the guard in the same transaction. */
export const CLAIM = claimSql('claimable = null')
/** For a job that has an expiresAt. */
export const CLAIM_EXPIRING = claimSql('claimable = null, expiring_at = null')
/** For a member of a group. */
export const CLAIM_MEMBER = claimSql('claimable = null, expiring_at = null, running_in = group_id')

function claimSql(clearMarks: string) {
  return inOrder<ClaimValues>(
    [
      ...(['now', 'boot', 'leaseId', 'workerId'] as const),
      ...(['leaseMono', 'leaseMs', 'leaseWall', 'pulledMs'] as const),
      ...(['fence', 'seq'] as const),
    ],
    `update jobs set state = 'running', ${clearMarks}, lease_id = $leaseId, worker_id = $workerId,
  claimed_at = $now, started_at = coalesce(started_at, $now),
  lease_boot = $boot, lease_mono = $leaseMono, lease_ms = $leaseMs, lease_wall = $leaseWall,
  pulled_ms = $pulledMs, progress = null, fence = $fence,
  attempt_count = attempt_count + 1, attempts_left = attempts_left - 1, version = version + 1
  where seq = $seq`,
  )
}

export const USE_TURN = `
update jobs set turn = ${NO_TURN}, admits_next = 0 where seq = $seq`

interface ClaimableRow {
  seq: number
  id: string
  fence: number
  payload_bytes: number
  inputs_bytes: number | null
  attempt_count: number
  attempts_left: number
  max_attempts: number
  free_attempts: number
  run_at: number
  promoted_at: number | null
  first_run_at: number
  expires_at: number | null
  timeout_ms: number | null
  retry: string | null
  headers: string | null
  schedule_name: string | null
  trace: string | null
  cost: number
  group_id: string | null
}

interface TurnRow extends ClaimableRow {
  key: string
  tag: number
  admits_next: number
}

/** The values that all jobs of one claim share. */
interface Grant {
  leaseId: string
  holder: Holder
  now: number
  monotonic: number
  /** How many jobs were left to the next claim, because no fences are reserved for them. */
  skippedCount: number
}

export async function claim(
  database: Database,
  shares: EndpointShare[],
  limit: number,
  holder: Holder,
): Promise<Claim> {
  const { fences } = database
  // Before a claim: if it fails, no job is claimed that no worker hears of.
  if (fences.isShort) await fences.reserve()
  const claimed = await claimOnce(database, shares, limit, holder)
  if (claimed.jobs.length > 0 || !fences.isShort) return claimed
  await fences.reserve()
  return claimOnce(database, shares, limit, holder)
}

function claimOnce(
  database: Database,
  shares: EndpointShare[],
  limit: number,
  holder: Holder,
): Promise<Claim> {
  const { clock, connection } = database
  // A claim that a power loss undoes does no harm (fences.ts), except that the response to a pull
  // has reported it. Without a boot id, fences.ts cannot detect a power loss.
  const isFlushed = holder.pulls || clock.boot === UNKNOWN_BOOT
  return connection.write(isFlushed ? 'full' : 'normal', () => {
    const grant = {
      leaseId: randomBytes(LEASE_ID_BYTES).toString('base64url'),
      holder,
      now: clock.now(),
      monotonic: clock.monotonic(),
      skippedCount: 0,
    }
    const claim: Claim = { jobs: [], limited: [], unfinished: [] }
    let bytesLeft = MAX_CLAIM_BYTES
    const shared = openSharedLimits(database, grant.now)
    const costs = new Map<string, number>()
    for (const share of shares) {
      const asked = Math.min(share.limit, limit - claim.jobs.length)
      const skippedBefore = grant.skippedCount
      if (asked > 0 && bytesLeft > 0) {
        const part = { ...share, limit: asked }
        const taken = claimAdmitted(database, part, shared, grant, bytesLeft, claim)
        bytesLeft = taken.bytesLeft
        if (taken.cost > 0) costs.set(share.endpoint, taken.cost)
      }
      const isCut = asked < share.limit || bytesLeft <= 0 || grant.skippedCount > skippedBefore
      if (isCut && share.limit > 0) claim.unfinished.push(share.endpoint)
    }
    shared.save(costs)
    return claim
  })
}

/** Adds to `claim`. Returns how many payload bytes the claim may still take, and what it took. */
function claimAdmitted(
  database: Database,
  share: EndpointShare,
  sharedLimits: SharedLimits,
  grant: Grant,
  bytes: number,
  claim: Claim,
): { bytesLeft: number; cost: number } {
  const admission = acquireAdmission(database, share, grant.now)
  if (admission === null) return { bytesLeft: bytes, cost: 0 }
  const { endpoint } = share
  const { slots, limits, perKey, shared } = admission
  const { now } = grant
  const countBefore = claim.jobs.length
  const tokens = tokensOf(endpoint, limits, sharedLimits.rooms(shared), now)
  const room: Room = { perKey, keys: null, tokens, cost: 0 }
  const bytesLeft = claimShare(database, { endpoint, limit: slots }, room, grant, bytes, claim.jobs)
  const againAts: number[] = []
  const { cost } = room
  const { refusal } = tokens
  if (room.keys !== null) {
    room.keys.save()
    const until = parkedUntil(database, endpoint)
    if (until !== null) againAts.push(Math.min(until, now + ASK_AGAIN_MS))
  }
  const isRefusedByOthers = refusal !== null && refusal.limits.length > 0
  if (isRefusedByOthers) againAts.push(refusal.againAt)
  if (limits !== null) {
    const againAt = releaseAdmission(database, endpoint, limits, cost, now, refusal?.cost)
    const isAtLimit = slots < share.limit && claim.jobs.length - countBefore === slots
    if (isAtLimit || (refusal !== null && !isRefusedByOthers)) againAts.push(againAt)
  }
  if (againAts.length > 0) {
    const sharedNames = refusal?.limits ?? []
    claim.limited.push({ endpoint, againAt: Math.min(...againAts), limits: sharedNames })
  }
  return { bytesLeft, cost }
}

/** What one claim may take from an endpoint beside its slots, and what it took. */
interface Room {
  perKey: KeyLimits | null
  /** null: no job with a fairness key was looked at. */
  keys: Keys | null
  tokens: Tokens
  /** Of all jobs that were claimed. */
  cost: number
}

/** Adds to `claimed`. Returns how many payload bytes the claim may still take. */
function claimShare(
  database: Database,
  { endpoint, limit }: EndpointShare,
  room: Room,
  grant: Grant,
  bytes: number,
  claimed: ClaimedJob[],
): number {
  const { connection } = database
  const full = claimed.length + limit
  let bytesLeft = bytes
  let priority = ABOVE_ALL
  while (claimed.length < full && bytesLeft > 0 && room.tokens.refusal === null) {
    const next = connection.ordered(NEXT_PRIORITY).get(endpoint, priority)?.priority
    if (typeof next !== 'number') break
    priority = next
    const lane = laneOf(database, endpoint, priority)
    const share = { endpoint, limit: full - claimed.length, priority }
    bytesLeft =
      lane === null
        ? claimPlain(database, share, room, grant, bytesLeft, claimed)
        : claimInTurn(database, share, lane, room, grant, bytesLeft, claimed)
  }
  return bytesLeft
}

/** A part of the endpoint's share, for one priority. */
type LaneShare = EndpointShare & { priority: number }

/** No job of this priority has had a fairness key. */
function claimPlain(
  database: Database,
  { endpoint, priority, limit }: LaneShare,
  room: Room,
  grant: Grant,
  bytes: number,
  claimed: ClaimedJob[],
): number {
  let bytesLeft = bytes
  const rows = database.connection.ordered(CLAIMABLE).all(grant.now, endpoint, priority, limit)
  for (const row of rows as unknown as ClaimableRow[]) {
    if (bytesLeft <= 0 || !room.tokens.take(row.cost)) break
    if (claimRow(database, endpoint, row, room, grant, claimed)) bytesLeft -= bytesOf(row)
  }
  return bytesLeft
}

/** Takes the fairness keys in turn, and gives turns to the jobs that come after those it took. */
function claimInTurn(
  database: Database,
  { endpoint, priority, limit }: LaneShare,
  before: Lane,
  room: Room,
  grant: Grant,
  bytes: number,
  claimed: ClaimedJob[],
): number {
  const { connection } = database
  const { now } = grant
  room.keys ??= openKeys(database, endpoint, room.perKey, now)
  const { keys } = room
  ripen(database, endpoint, priority, now)
  unpark(database, { endpoint, priority }, keys, now)
  const maxWeight = keys.areWeighted ? MAX_WEIGHT : DEFAULT_WEIGHT
  let parkedCount = 0
  let lane = before
  let bytesLeft = bytes
  let left = limit
  for (;;) {
    const found = connection.ordered(TURNS).all(now, endpoint, priority, left)
    const turns = (found as unknown as TurnRow[]).map((row) => ({
      ...row,
      admitsNext: row.admits_next === 1,
    }))
    const rows = connection.ordered(CLAIMABLE).all(now, endpoint, priority, left)
    const plain = rows as unknown as ClaimableRow[]
    const { picks, isCut } = takeInTurn(turns, plain, lane, left, maxWeight)
    const done: typeof picks = []
    /** Keys at their limit, with the cost of their next job. */
    const full = new Map<string, number>()
    let skippedCount = 0
    for (const pick of picks) {
      const { turn, plain: job } = pick
      const row = turn ?? job
      if (turn !== undefined && (full.has(turn.key) || !keys.room(turn.key).canTake(row.cost))) {
        if (!full.has(turn.key)) full.set(turn.key, row.cost)
        skippedCount++
        continue
      }
      if (bytesLeft <= 0 || !room.tokens.take(row.cost)) break
      if (!claimRow(database, endpoint, row, room, grant, claimed)) break
      bytesLeft -= bytesOf(row)
      if (turn !== undefined) {
        keys.room(turn.key).take(row.cost)
        connection.statement(USE_TURN).run({ seq: row.seq })
      }
      done.push(pick)
    }
    const isAll = done.length + skippedCount === picks.length
    // Only what was claimed moves the lane.
    if (done.length > 0) {
      const plainCount = done.filter(({ plain: job }) => job !== undefined).length
      lane = laneAfter(lane, done, plainCount < plain.length || plain.length === left)
      setLane(database, endpoint, priority, lane)
    }
    for (const [key, cost] of full) {
      park(database, { endpoint, priority, key }, keys.room(key).freeAt(cost))
    }
    const claimedTurns = done.flatMap(({ turn = [] }) => turn)
    const isMoreGiven = giveNextTurns(database, { endpoint, priority }, claimedTurns, keys)
    left -= done.length
    if (left <= 0 || bytesLeft <= 0 || !isAll || !(isCut || isMoreGiven || full.size > 0)) break
    parkedCount += full.size
    if (parkedCount >= MAX_PARKED) {
      grant.skippedCount++
      break
    }
  }
  return bytesLeft
}

/** Returns whether the keys of these jobs got any turns. */
function giveNextTurns(
  database: Database,
  lane: { endpoint: string; priority: number },
  claimed: { key: string; admitsNext: boolean }[],
  keys: Keys,
): boolean {
  const counts = new Map<string, number>()
  for (const { key, admitsNext } of claimed) {
    if (admitsNext) counts.set(key, (counts.get(key) ?? 0) + 1)
  }
  let given = 0
  for (const [key, count] of counts) {
    const slots = keys.room(key).left()
    if (slots === 0) park(database, { ...lane, key }, keys.room(key).freeAt())
    else
      given += giveTurns(
        database,
        { ...lane, key },
        Math.min(slots, turnsToGive(count, counts.size)),
      )
  }
  return given > 0
}

function bytesOf({ payload_bytes, inputs_bytes }: ClaimableRow): number {
  return payload_bytes + (inputs_bytes ?? 0)
}

function claimOf({ group_id, expires_at }: ClaimableRow): typeof CLAIM {
  if (group_id !== null) return CLAIM_MEMBER
  return expires_at === null ? CLAIM : CLAIM_EXPIRING
}

/** Returns false if no fence is reserved for it: it is left to the next claim. */
function claimRow(
  { connection, clock, fences, keys }: Database,
  endpoint: string,
  row: ClaimableRow | TurnRow,
  room: Room,
  grant: Grant,
  claimed: ClaimedJob[],
): boolean {
  const key = 'key' in row ? row.key : null
  const { holder, leaseId, monotonic, now } = grant
  const fence = fences.after(row.fence)
  if (fence === null) {
    grant.skippedCount++
    return false
  }
  connection
    .ordered(claimOf(row))
    .run(
      now,
      clock.boot,
      leaseId,
      holder.workerId,
      monotonic + holder.leaseMs,
      holder.leaseMs,
      now + holder.leaseMs,
      holder.pulls ? holder.leaseMs : null,
      fence,
      row.seq,
    )
  room.cost += row.cost
  claimed.push({
    jobId: row.id,
    fence,
    leaseId,
    endpoint,
    payload: connection.ordered(PAYLOAD).get(row.seq)?.bytes as Uint8Array,
    inputs:
      row.inputs_bytes === null
        ? null
        : (connection.statement(INPUTS_OF_SEQ).get({ seq: row.seq })?.bytes as Uint8Array),
    attemptNumber: row.attempt_count + 1,
    attemptsLeft: row.attempts_left - 1,
    maxAttempts: row.max_attempts,
    freeAttempts: row.free_attempts,
    runAt: row.run_at,
    firstRunAt: row.first_run_at,
    promotedAt: row.promoted_at,
    expiresAt: row.expires_at,
    timeoutMs: row.timeout_ms,
    retry: parsed(row.retry, null),
    headers: openJobHeaders(row.headers, endpoint, keys),
    scheduleName: row.schedule_name,
    ...originOf(row.trace),
    fairnessKey: key,
    keyRecovers: key !== null && room.keys?.room(key).isRecovering === true,
    claimedAt: now,
  })
  return true
}
