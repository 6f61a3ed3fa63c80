// The part of a job's record that the lease protocol uses, and its writes. The table in
// src/job/lifecycle.ts, including the text of its guards, decides which write is applied and what
// it changes. If a guard is missing there, the model finds a violation.
import type { JobState } from '../../src/job/job.ts'
import {
  type EventName,
  GUARDS,
  type Guard,
  LIFECYCLE,
  type LifecycleEvent,
} from '../../src/job/lifecycle.ts'

const MAX_ATTEMPTS = 2

/** What a guard compares with the record. */
export type Proven = 'fence' | 'lease id' | 'expiry'

/**
 * The protocol that is tried. REAL_RULES is the protocol of Posthorn; all others are wrong on
 * purpose.
 */
export interface Rules {
  table: Record<EventName, LifecycleEvent>
  /** What a holder proves about its lease. */
  holder: readonly Proven[]
  /** What the sweeper proves about the lease that it has read. */
  sweeper: readonly Proven[]
  /** Whether the sweeper also proves that the lease has expired. */
  provesExpiry: boolean
  /** Whether a worker whose renewal matched nothing gives up its attempt. */
  stopsOnLostLease: boolean
}

/** The sentence of a guard begins with what it compares: "fence and lease id are those of …". */
function provenBy(sentence: string): Proven[] {
  const [compared = ''] = sentence.split(' are ')
  return (['fence', 'lease id', 'expiry'] as const).filter((one) => compared.includes(one))
}

export const REAL_RULES: Rules = {
  table: LIFECYCLE,
  holder: provenBy(GUARDS.holder),
  sweeper: provenBy(GUARDS.lease_expired),
  provesExpiry: GUARDS.lease_expired.includes('has passed'),
  stopsOnLostLease: true,
}

interface AttemptRecord {
  fence: number
  leaseId: number
  event: EventName
}

/** The record of the job. Its lease ids are numbers, not random: only their uniqueness matters. */
export interface LeaseRecord {
  state: JobState
  phase: 'sending' | 'awaiting' | null
  fence: number
  leaseId: number | null
  /** The number of the current expiry of the lease, counted from its claim. */
  expiry: number
  /** The current expiry has passed by the store's clock. */
  hasExpired: boolean
  attemptCount: number
  attemptsLeft: number
  attempts: readonly AttemptRecord[]
  /** How many of these attempts no longer count since a retry by hand. */
  forgiven: number
  /** The record that a failover would restore. It is set while a claim is the last write. */
  beforeClaim: LeaseRecord | null
}

export const NEW_RECORD: LeaseRecord = {
  state: 'queued',
  phase: null,
  fence: 0,
  leaseId: null,
  expiry: 0,
  hasExpired: false,
  attemptCount: 0,
  attemptsLeft: MAX_ATTEMPTS,
  attempts: [],
  forgiven: 0,
  beforeClaim: null,
}

/** What a writer knows and may have to prove. */
export interface Writer {
  fence: number
  leaseId: number
  /** The expiry that the sweeper has read. */
  expiry?: number
  /** Only for an await: its deadline is not later than the stored one, so the stored one stays. */
  isShort?: boolean
}

/**
 * Guards about things that this model leaves out: limits, keys, dependencies, due times. They
 * always hold.
 */
const HOLDS = () => true

type Proof = (record: LeaseRecord, writer: Writer, rules: Rules) => boolean

const PROOFS: Record<Guard, Proof> = {
  holder: (record, writer, { holder }) => provesAll(record, writer, holder),
  lease_expired: (record, writer, { sweeper, provesExpiry }) =>
    provesAll(record, writer, sweeper) && (record.hasExpired || !provesExpiry),
  sending: ({ phase }) => phase === 'sending',
  awaiting: ({ phase }) => phase === 'awaiting',
  attempts_left: ({ attemptsLeft }) => attemptsLeft > 0,
  no_attempts_left: ({ attemptsLeft }) => attemptsLeft === 0,
  superseded: () => false,
  not_superseded: HOLDS,
  due: HOLDS,
  unexpired: HOLDS,
  expired: HOLDS,
  claimable: HOLDS,
  blocked: HOLDS,
  dependencies_met: HOLDS,
  inputs_made: HOLDS,
  slot_free: HOLDS,
  dependency_failed: HOLDS,
  sent_before: HOLDS,
  free_attempts_left: HOLDS,
  version_read: HOLDS,
  key_unused: HOLDS,
  dedupe_unused: HOLDS,
  endpoint_accepts: HOLDS,
  endpoint_eligible: HOLDS,
  endpoint_gone: HOLDS,
  effects_done: HOLDS,
  not_needed: HOLDS,
  purge_due: HOLDS,
}

export function provesAll(
  record: { fence: number; leaseId: number | null; expiry?: number },
  writer: Writer,
  proven: readonly Proven[],
): boolean {
  return proven.every((one) => {
    if (one === 'fence') return record.fence === writer.fence
    if (one === 'lease id') return record.leaseId === writer.leaseId
    return record.expiry === writer.expiry
  })
}

/** The record after the write of this event; null: its guard does not match. */
export function write(
  rules: Rules,
  record: LeaseRecord,
  event: EventName,
  writer: Writer,
): LeaseRecord | null {
  const { from, guards, to, also } = rules.table[event]
  if (!from.includes(record.state)) return null
  if (!guards.every((guard) => PROOFS[guard](record, writer, rules))) return null
  if (to === null) throw new Error(`${event} is no event of this model`)
  const before = event === 'claim' ? { beforeClaim: { ...record, beforeClaim: null } } : {}
  const after = { ...record, state: to, beforeClaim: null, ...before }
  const { leaseId } = record
  if (also.includes('adds the attempt') && leaseId !== null) {
    // The record of the attempt is that of the writer; for a cancel, that of the lease that it
    // ends.
    const holder = event === 'cancel' ? { fence: record.fence, leaseId } : writer
    after.attempts = [...record.attempts, { fence: holder.fence, leaseId: holder.leaseId, event }]
  }
  if (also.includes('drops the lease')) Object.assign(after, NO_LEASE)
  if (also.includes('new lease')) {
    Object.assign(after, {
      leaseId: writer.leaseId,
      phase: 'sending',
      expiry: 1,
      hasExpired: false,
    })
  }
  if (also.includes('phase = awaiting_completion')) after.phase = 'awaiting'
  if (also.includes('lease.expiresAt = the later') && !writer.isShort) {
    Object.assign(after, { expiry: record.expiry + 1, hasExpired: false })
  }
  if (also.includes('fence + 1')) after.fence += 1
  after.attemptCount += changeOf(also, 'attemptCount')
  after.attemptsLeft += changeOf(also, 'attemptsLeft')
  if (also.includes('attemptsLeft = maxAttempts')) {
    Object.assign(after, { attemptsLeft: MAX_ATTEMPTS, forgiven: record.attempts.length })
  }
  return after
}

const NO_LEASE = { leaseId: null, phase: null, expiry: 0, hasExpired: false } as const

function changeOf(also: string, counter: string): number {
  if (also.includes(`${counter} + 1`)) return 1
  return also.includes(`${counter} − 1`) ? -1 : 0
}

/** The first property that a record violates; null: none. These properties always hold. */
export function flawOf(record: LeaseRecord): string | null {
  const { state, phase, leaseId, attempts, attemptCount, attemptsLeft, forgiven } = record
  const running = state === 'running' ? 1 : 0
  if ((leaseId !== null) !== (state === 'running'))
    return 'a job is running without a lease, or has one without running'
  if ((phase !== null) !== (state === 'running'))
    return 'a phase without a lease, or a lease without one'
  if (attempts.length + running !== attemptCount)
    return 'an attempt is not counted, or counted twice'
  const leases = new Set(attempts.map((attempt) => attempt.leaseId))
  if (leases.size !== attempts.length) return 'one attempt has two ends'
  const spent =
    attempts.slice(forgiven).filter(({ event }) => event !== 'postpone').length + running
  if (attemptsLeft !== MAX_ATTEMPTS - spent) return 'an attempt that costs was not paid for'
  if (attemptsLeft < 0) return 'more attempts than the budget has'
  if (state === 'queued' && attemptsLeft === 0) return 'a job is queued without an attempt left'
  return null
}
