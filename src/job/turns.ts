// The turns of fairness keys: in which order a claim takes the due jobs of one endpoint and
// priority, its lane. Pure rules; the stores keep the tags.
//
// A job that may be claimed soon has a turn: a tag, the least first. The tag is a finish: the tag
// of the job before it in its key, or the virtual time of the lane, plus the length of the job. The
// virtual time is the greatest tag that was claimed. (Start-time and finish-time fair queueing: P.
// Goyal, H. Vin, H. Cheng, "Start-time Fair Queuing", SIGCOMM 1996; tags by finish as in A. Demers,
// S. Keshav, S. Shenker, "Analysis and Simulation of a Fair Queueing Algorithm", SIGCOMM 1989.)
//
// Only the next jobs of a key have a turn; the others are outside, and cost a claim nothing. Turns
// that admit the next one say so, so that only their claim looks outside.

/** The length of a job of cost 1 at weight 1. Divisible by every weight up to 10. */
const TURN_UNIT = 5_040
/** A key gets turns up to this many jobs of cost 1 ahead of the virtual time. */
const TURNS_AHEAD = 64
/** New turns of all keys of one claim, if each gets no more than two for each job claimed. */
const TURNS_PER_CLAIM = 256

/** The place of a job that is not in the claim index, or has no fairness key. */
export const NO_TURN = 0
/** Before every tag: a job that was released has its turn again. */
export const FIRST_TURN = 1
/** The place of the first job of a key that has no due job: a claim finds it when it is due. */
export const ALARM = -1
/**
 * After every tag: the place of the first job of a key that is at its limit. The key has no turns
 * then. A claim looks at it when it may have room.
 */
export const PARKED = Number.MAX_SAFE_INTEGER

/** @param cost and weight: whole numbers from 1 */
export function turnLength(cost: number, weight = 1): number {
  return Math.max(1, Math.round((cost * TURN_UNIT) / weight))
}

/** What the order of one endpoint and priority is computed from. It never goes back. */
export interface Lane {
  /** The greatest tag that was claimed. */
  virtualTime: number
  /**
   * Jobs without a key take turns as one key of weight 1. The start of the next of them; null: none
   * was due after the last claim, so it starts at the virtual time.
   */
  plainStart: number | null
}

export const NEW_LANE: Lane = { virtualTime: 0, plainStart: null }

/** The jobs of one key in a lane that may be claimed, as the claim index has them. */
export interface KeyLine {
  /** The greatest tag; null: no job of the key has a turn. */
  lastTurn: number | null
  /** Whether that turn, or the alarm, admits a job that is outside. */
  admitsNext: boolean
  /**
   * When the job with the alarm is due; null: none has it. A key with a turn has none.
   * -Infinity: the key is parked.
   */
  alarmAt: number | null
}

export type Place =
  | { kind: 'turn'; tag: number }
  /** The job that had the alarm, if any, goes outside. */
  | { kind: 'alarm' }
  | { kind: 'outside' }

/** A job that waits for its turn. `dueAt` is in epoch milliseconds. */
export interface Waiting {
  cost: number
  dueAt: number
}

/** The place of a job that joins its key. */
export function placeOf(
  job: Waiting,
  line: KeyLine,
  virtualTime: number,
  now: number,
  weight = 1,
): Place {
  const { lastTurn, alarmAt } = line
  if (job.dueAt > now) {
    const isFirst = lastTurn === null && (alarmAt === null || job.dueAt < alarmAt)
    return { kind: isFirst ? 'alarm' : 'outside' }
  }
  // In the order of the key, a job that is outside, or whose alarm no claim has seen yet, is first.
  const isBehind = lastTurn === null ? alarmAt !== null && alarmAt <= now : line.admitsNext
  if (isBehind) return { kind: 'outside' }
  const [tag] = nextTurns(lastTurn, [job], virtualTime, now, weight)
  return tag === undefined ? { kind: 'outside' } : { kind: 'turn', tag }
}

/**
 * The tags of the first of these jobs, which are in the order of their key.
 *
 * @param start the tag of the key's last turn; null: it has none, so its first due job gets one
 */
export function nextTurns(
  start: number | null,
  waiting: readonly Waiting[],
  virtualTime: number,
  now: number,
  weight = 1,
): number[] {
  const horizon = virtualTime + TURNS_AHEAD * turnLength(1, weight)
  const tags: number[] = []
  // A job that was released has an old tag, which is no credit for those after it.
  let tag = Math.max(start ?? 0, virtualTime)
  for (const { cost, dueAt } of waiting) {
    tag += turnLength(cost, weight)
    const isFirst = start === null && tags.length === 0
    // A later job with a smaller cost must not overtake it.
    if (dueAt > now || (tag > horizon && !isFirst)) break
    tags.push(tag)
  }
  return tags
}

/** A job with a turn. */
interface Tagged {
  turn: number
  cost: number
}

/**
 * The tags of the turns of a key after some of its jobs have left the queue: they follow each other
 * as if those jobs had never been. Only the first can be due at once: turns that jobs which expired
 * have missed are no credit.
 *
 * @param gone the jobs that have left, as they were
 * @param left the others, by turn, without those that were released
 * @param before the weight of the key when they got their tags
 */
export function closedUp(
  gone: readonly Tagged[],
  left: readonly Tagged[],
  virtualTime: number,
  weight = 1,
  before = weight,
): number[] {
  let start = Math.min(startOf(gone, before), startOf(left, before))
  return left.map(({ cost }) => {
    const tag = start + turnLength(cost, weight)
    start = Math.max(tag, virtualTime)
    return tag
  })
}

/** The start of the first of these turns. That of a job that was released is used up. */
function startOf(turns: readonly Tagged[], weight: number): number {
  return turns.reduce(
    (start, { turn, cost }) =>
      turn > FIRST_TURN ? Math.min(start, turn - turnLength(cost, weight)) : start,
    Number.POSITIVE_INFINITY,
  )
}

/** Keys with equal backlogs use up their turns together: so the new ones have a limit. */
export function turnsToGive(claimedOfKey: number, keyCount: number): number {
  return Math.max(2 * claimedOfKey, Math.floor(TURNS_PER_CLAIM / keyCount))
}

/** A job that a claim may take, by its tag. */
export interface Turn {
  tag: number
  key: string
  admitsNext: boolean
}

/** What one look at a lane takes, in this order. */
export interface Taken<T, P> {
  picks: Pick<T, P>[]
  /**
   * The next job in order may be outside: a key whose last turns were taken has more jobs, and the
   * others of the look come after them.
   */
  isCut: boolean
}

export type Pick<T, P> = { tag: number } & ({ turn: T; plain?: never } | { plain: P; turn?: never })

/**
 * Merges turns and jobs without a key.
 *
 * @param turns the first turns of the lane, by tag; fewer than `limit`: all of them
 * @param plain the first due jobs without a key, in order; the same
 * @param maxWeight the greatest weight that a key of the lane may have
 */
export function takeInTurn<T extends Turn, P extends { cost: number }>(
  turns: readonly T[],
  plain: readonly P[],
  { virtualTime, plainStart }: Lane,
  limit: number,
  maxWeight = 1,
): Taken<T, P> {
  const end = endOfOrder(turns, limit, turnLength(1, maxWeight))
  const picks: Pick<T, P>[] = []
  let start = plainStart ?? virtualTime
  let turnCount = 0
  let plainCount = 0
  while (picks.length < limit) {
    const turn = turns[turnCount]
    const job = plain[plainCount]
    const finish = job === undefined ? Number.POSITIVE_INFINITY : start + turnLength(job.cost)
    if (job !== undefined && (turn === undefined || finish < turn.tag)) {
      if (finish >= end) return { picks, isCut: true }
      picks.push({ tag: finish, plain: job })
      start = Math.max(finish, virtualTime)
      plainCount++
    } else if (turn !== undefined) {
      if (turn.tag >= end) return { picks, isCut: true }
      picks.push({ tag: turn.tag, turn })
      turnCount++
    } else {
      break
    }
  }
  return { picks, isCut: false }
}

/**
 * The lane after these were claimed.
 *
 * @param isPlainLeft whether jobs without a key are due that were not claimed
 */
export function laneAfter(
  { virtualTime, plainStart }: Lane,
  claimed: readonly Pick<unknown, unknown>[],
  isPlainLeft: boolean,
): Lane {
  const lastPlain = claimed.findLast(({ plain }) => plain !== undefined)
  // A job that waited long for its cost, and left the queue, is no credit for the next ones.
  const start =
    lastPlain === undefined ? (plainStart ?? virtualTime) : Math.max(lastPlain.tag, virtualTime)
  return {
    virtualTime: claimed.reduce((greatest, { tag }) => Math.max(greatest, tag), virtualTime),
    plainStart: isPlainLeft ? start : null,
  }
}

/**
 * Before which tag these turns are all that may be claimed. After the last one of a key that has
 * more jobs, the next one of the key may come: at the earliest the least length of a turn later. If
 * the virtual time were there already, that job would begin later than it must.
 */
function endOfOrder(turns: readonly Turn[], limit: number, leastLength: number): number {
  const lastOf = new Map<string, Turn>()
  for (const turn of turns) lastOf.set(turn.key, turn)
  // Behind a full look there may be further turns of the key.
  const lookedTo = turns.length < limit ? Number.POSITIVE_INFINITY : (turns.at(-1)?.tag ?? 0)
  let end = Number.POSITIVE_INFINITY
  for (const { tag, admitsNext } of lastOf.values()) {
    const earliestNext = tag + leastLength
    if (admitsNext && earliestNext <= lookedTo) end = Math.min(end, earliestNext)
  }
  return end
}
