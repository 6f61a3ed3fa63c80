// The turns of fairness keys: src/job/turns.ts has the rules. A job with a key is in one of three
// places: it has a turn (`turn` is its tag), it has the alarm of its key, or it is outside
// (`blocked` is 2, `turn` is 0). A key at its limit is parked: it has no turns, its first job is
// PARKED, and `due_at` of that job is when a claim looks at the key again. Every write that queues
// such a job again leaves it outside with `recheck`, and every write that takes a turn from one
// calls leaveLine or leaves an effect.

import { DEFAULT_WEIGHT } from '../../endpoint/key-limits.ts'
import {
  ALARM,
  closedUp,
  FIRST_TURN,
  type Lane,
  NEW_LANE,
  NO_TURN,
  nextTurns,
  PARKED,
  placeOf,
  type Waiting,
} from '../../job/turns.ts'
import { type Database, inOrder } from './connection.ts'
import { hasKeys, keyWeight } from './fairness-keys.ts'

/** The jobs of one key in one lane. */
export interface KeyInLane {
  endpoint: string
  priority: number
  key: string
}

/** Values of the columns of a job. */
export interface PlaceValues {
  blocked: 0 | 2
  turn: number
  admitsNext: 0 | 1
}

const OUTSIDE: PlaceValues = { blocked: 2, turn: NO_TURN, admitsNext: 0 }
/** Turns that a change gives to one key. More are given when these are claimed. */
export const TURNS_PER_CHANGE = 64
/** Keys whose alarm one claim sees, and parked keys that it looks at. */
export const ALARMS_PER_CLAIM = 1_000
/** Later than every instant: a write that may make room for the key changes it. */
export const UNTIL_THERE_IS_ROOM = Number.MAX_SAFE_INTEGER
/** Jobs that are placed in one transaction, at a time. */
const PLACED_AT_ONCE = 200

const OF_KEY = 'endpoint = $endpoint and fairness_key = $key and priority = $priority'
/** The condition of the index jobs_turns. */
const IN_LINE = `turn <> 0 and effects_pending = 0 and ${OF_KEY}`
const DUE_SINCE = 'max(run_at, coalesce(promoted_at, 0))'

export const LANE = inOrder<[endpoint: string, priority: number]>(
  ['endpoint', 'priority'],
  `select virtual_time, plain_start from lanes
  where endpoint = $endpoint and priority = $priority`,
)
export const SET_LANE = `
insert into lanes (endpoint, priority, virtual_time, plain_start)
values ($endpoint, $priority, $virtualTime, $plainStart)
on conflict do update set virtual_time = excluded.virtual_time, plain_start = excluded.plain_start`

export const FORGET_LANES = 'delete from lanes where endpoint = $endpoint'

/** The last turn of a key, or its alarm. It reads the index alone. */
export const LAST_IN_LINE = inOrder<[endpoint: string, key: string, priority: number]>(
  ['endpoint', 'key', 'priority'],
  `select seq, turn, admits_next from jobs
  where ${IN_LINE} order by turn desc limit 1`,
)
export const ALARM_SINCE = `select ${DUE_SINCE} as due_since from jobs where seq = $seq`
export const FIRST_OUTSIDE = `
select seq, cost, run_at from jobs where blocked = 2 and recheck = 0 and ${OF_KEY}
order by run_at, seq limit +$limit`
export const RIPE_ALARMS = `
select fairness_key as key from jobs
where claimable = 1 and endpoint = $endpoint and priority = $priority
  and turn = ${ALARM} and run_at <= $now
order by run_at limit ${ALARMS_PER_CLAIM}`

/** Workers look for jobs that became due: a job with a new turn has just become claimable. */
export const GIVE_TURN = `
update jobs set blocked = 0, claimable = 1, recheck = 0, turn = $turn, admits_next = $admitsNext,
  due_at = iif($turn = ${ALARM}, due_at, $now)
where seq = $seq and state = 'queued' and blocked = 2`
export const ADMIT_NEXT = 'update jobs set admits_next = 1 where seq = $seq and admits_next = 0'
function asideSql(places: string): string {
  return `
update jobs set blocked = 2, claimable = null, turn = ${NO_TURN}, admits_next = 0,
  due_at = ${DUE_SINCE}
where ${IN_LINE} and ${places}`
}

export const SET_ALARM_ASIDE = asideSql(`turn = ${ALARM}`)
export const SET_PARKED_ASIDE = asideSql(`turn = ${PARKED}`)
export const SET_ALL_ASIDE = asideSql('turn <> 0')
export const PARK = `
update jobs set blocked = 0, claimable = 1, turn = ${PARKED}, admits_next = 1, due_at = $until
where seq = $seq and state = 'queued' and blocked = 2`
export const WAKE_PARKED = `
update jobs set due_at = $now
where turn = ${PARKED} and effects_pending = 0 and endpoint = $endpoint and fairness_key = $key`

export const PLACE_OF = `
select endpoint, priority, fairness_key as key, turn, cost from jobs
where seq = $seq and state = 'queued' and blocked <> 1 and fairness_key is not null`
/** It is in no place that a turn is given from before the mark is gone. */
export const LEAVE_LINE = `
update jobs set blocked = 2, claimable = null, recheck = 1, turn = ${NO_TURN}, admits_next = 0
where seq = $seq and state = 'queued'`
/** Without those that were released. */
export const TURNS_OF_KEY = `
select seq, turn, cost from jobs
where ${IN_LINE} and turn > ${FIRST_TURN} and turn < ${PARKED} order by turn`
export const MOVE_TURN = "update jobs set turn = $turn where seq = $seq and state = 'queued'"
export const LEFT_WITH_TURN = `
select seq, turn, cost from jobs
where effects_pending = 1 and turn <> ${NO_TURN} and state <> 'queued' and ${OF_KEY}`
export const FORGET_TURN = `
update jobs set turn = ${NO_TURN}, admits_next = 0 where seq = $seq and state <> 'queued'`

export const NEXT_UNPLACED = `
select seq, endpoint, priority, fairness_key as key from jobs
where recheck = 1 and blocked = 2 order by seq limit ${PLACED_AT_ONCE}`
export const MARK_PLACED = 'update jobs set recheck = 0 where seq = $seq and recheck = 1'

interface InLine {
  seq: number
  turn: number
  admits_next: number
}

interface Outside {
  seq: number
  cost: number
  run_at: number
}

/** null: no job of this endpoint and priority has had a key. */
export function laneOf({ connection }: Database, endpoint: string, priority: number): Lane | null {
  const row = connection.ordered(LANE).get(endpoint, priority) as LaneRow | undefined
  if (row === undefined) return null
  return { virtualTime: row.virtual_time, plainStart: row.plain_start }
}

function laneOfKey(database: Database, { endpoint, priority }: KeyInLane): Lane {
  const lane = laneOf(database, endpoint, priority)
  if (lane === null) setLane(database, endpoint, priority, NEW_LANE)
  return lane ?? NEW_LANE
}

interface LaneRow {
  virtual_time: number
  plain_start: number | null
}

export function setLane(
  { connection }: Database,
  endpoint: string,
  priority: number,
  lane: Lane,
): void {
  connection.statement(SET_LANE).run({ endpoint, priority, ...lane })
}

/** What the places of jobs that are inserted together depend on, and no insert changes. */
export interface Lines {
  now: number
  laneOf(of: KeyInLane): LineOfLane
  weightOf(of: KeyInLane): number
  /** Another write of the transaction takes a turn from a job. */
  forget(): void
}

interface LineOfLane {
  virtualTime: number
  /** Keys whose due jobs go outside: the job that admits the next one has its mark. */
  fullKeys: Set<string>
}

export function openLines(database: Database): Lines {
  const lanes = new Map<string, Map<number, LineOfLane>>()
  const areWeighted = new Map<string, boolean>()
  return {
    now: database.clock.now(),
    laneOf(of) {
      let ofEndpoint = lanes.get(of.endpoint)
      if (ofEndpoint === undefined) {
        ofEndpoint = new Map()
        lanes.set(of.endpoint, ofEndpoint)
      }
      let lane = ofEndpoint.get(of.priority)
      if (lane === undefined) {
        lane = { virtualTime: laneOfKey(database, of).virtualTime, fullKeys: new Set() }
        ofEndpoint.set(of.priority, lane)
      }
      return lane
    },
    weightOf({ endpoint, key }) {
      let isWeighted = areWeighted.get(endpoint)
      if (isWeighted === undefined) {
        isWeighted = hasKeys(database, endpoint)
        areWeighted.set(endpoint, isWeighted)
      }
      return isWeighted ? keyWeight(database, endpoint, key) : DEFAULT_WEIGHT
    },
    forget: () => lanes.clear(),
  }
}

/** The place of a job that is inserted next. */
export function placeNew(
  database: Database,
  lines: Lines,
  of: KeyInLane,
  job: Waiting,
): PlaceValues {
  const { connection } = database
  const { virtualTime, fullKeys } = lines.laneOf(of)
  const isDue = job.dueAt <= lines.now
  if (isDue && fullKeys.has(of.key)) return OUTSIDE
  const last = lastInLine(database, of)
  const alarm = last?.turn === ALARM ? last : undefined
  const line = {
    lastTurn: alarm === undefined && last?.turn !== PARKED ? (last?.turn ?? null) : null,
    admitsNext: last?.admits_next === 1,
    alarmAt: last?.turn === PARKED ? Number.NEGATIVE_INFINITY : alarmAt(database, alarm),
  }
  const place = placeOf(job, line, virtualTime, lines.now, lines.weightOf(of))
  if (place.kind === 'outside') {
    if (last?.admits_next === 0) connection.statement(ADMIT_NEXT).run({ seq: last.seq })
    if (isDue) fullKeys.add(of.key)
    return OUTSIDE
  }
  if (alarm !== undefined) connection.statement(SET_ALARM_ASIDE).run({ ...of })
  const turn = place.kind === 'alarm' ? ALARM : place.tag
  return { blocked: 0, turn, admitsNext: alarm === undefined ? 0 : 1 }
}

/**
 * Gives turns to the jobs of a key that are outside, as far as the rules allow. A parked key gets
 * none, but a claim looks whether it has room.
 */
export function giveTurns(database: Database, of: KeyInLane, most = TURNS_PER_CHANGE): number {
  const { connection, clock } = database
  // Another job may be due earlier.
  connection.statement(SET_ALARM_ASIDE).run({ ...of })
  const last = lastInLine(database, of)
  if (last?.turn === PARKED) {
    wakeParked(database, of)
    return 0
  }
  const outside = connection
    .statement(FIRST_OUTSIDE)
    .all({ ...of, limit: most + 1 }) as unknown as Outside[]
  if (outside.length === 0) return 0
  const { virtualTime } = laneOfKey(database, of)
  const now = clock.now()
  const waiting = outside.slice(0, most).map(({ cost, run_at: dueAt }) => ({ cost, dueAt }))
  const weight = keyWeight(database, of.endpoint, of.key)
  const tags = nextTurns(last?.turn ?? null, waiting, virtualTime, now, weight)
  const admitsNext = tags.length < outside.length ? 1 : 0
  const give = connection.statement(GIVE_TURN)
  tags.forEach((turn, i) => {
    give.run({ seq: (outside[i] as Outside).seq, turn, admitsNext, now })
  })
  if (tags.length > 0) return tags.length
  if (last !== undefined) connection.statement(ADMIT_NEXT).run({ seq: last.seq })
  else {
    const { seq } = outside[0] as Outside
    give.run({ seq, turn: ALARM, admitsNext: outside.length > 1 ? 1 : 0, now })
  }
  return 0
}

function alarmAt({ connection }: Database, alarm: InLine | undefined): number | null {
  if (alarm === undefined) return null
  return connection.statement(ALARM_SINCE).get({ seq: alarm.seq })?.due_since as number
}

function lastInLine({ connection }: Database, of: KeyInLane): InLine | undefined {
  return connection.ordered(LAST_IN_LINE).get(of.endpoint, of.key, of.priority) as
    | InLine
    | undefined
}

/**
 * Takes the turns of a key that is at its limit.
 *
 * @param until when it may have room; null: a later write makes room
 */
export function park(database: Database, of: KeyInLane, until: number | null = null): void {
  const { connection, clock } = database
  connection.statement(SET_ALL_ASIDE).run({ ...of })
  const first = connection.statement(FIRST_OUTSIDE).get({ ...of, limit: 1 }) as Outside | undefined
  if (first === undefined) return
  const { seq, run_at: runAt } = first
  const now = clock.now()
  // The others are due even later.
  if (runAt > now) connection.statement(GIVE_TURN).run({ seq, turn: ALARM, admitsNext: 1, now })
  else connection.statement(PARK).run({ seq, until: until ?? UNTIL_THERE_IS_ROOM })
}

/** A job of the key has ended, or may start at once: claims look whether the key has room. */
export function wakeParked(
  { connection, clock }: Database,
  { endpoint, key }: Omit<KeyInLane, 'priority'>,
): void {
  connection.statement(WAKE_PARKED).run({ endpoint, key, now: clock.now() })
}

/**
 * Jobs that had turns, or the alarm of their key, have left the queue. Their turns are read from
 * those whose finish effects are pending. The other turns of the key follow each other again, as if
 * those jobs had never been.
 */
export function closeGaps(database: Database, of: KeyInLane): void {
  const { connection } = database
  const gone = connection.statement(LEFT_WITH_TURN).all({ ...of }) as unknown as TurnOfJob[]
  for (const { seq } of gone) connection.statement(FORGET_TURN).run({ seq })
  closeUp(database, of, gone)
}

/** Moves the turns of a key forward, and gives turns to the jobs after them. */
function closeUp(database: Database, of: KeyInLane, gone: TurnOfJob[]): void {
  if (gone.some(({ turn }) => turn === PARKED)) {
    park(database, of, database.clock.now())
    return
  }
  moveTurns(database, of, gone)
  giveTurns(database, of)
}

function moveTurns(database: Database, of: KeyInLane, gone: TurnOfJob[], before?: number): void {
  const { connection } = database
  const turns = connection.statement(TURNS_OF_KEY).all({ ...of }) as unknown as TurnOfJob[]
  const { virtualTime } = laneOfKey(database, of)
  const weight = keyWeight(database, of.endpoint, of.key)
  const tags = closedUp(gone, turns, virtualTime, weight, before)
  turns.forEach(({ seq, turn }, i) => {
    const tag = tags[i] as number
    if (turn !== tag) connection.statement(MOVE_TURN).run({ seq, turn: tag })
  })
}

/** The weight of a key has changed: its turns get the tags that they would have. */
export function retag(database: Database, of: KeyInLane, before: number): void {
  moveTurns(database, of, [], before)
  if (lastInLine(database, of)?.turn !== PARKED) giveTurns(database, of)
}

interface TurnOfJob {
  seq: number
  turn: number
  cost: number
}

/**
 * Before a write that moves a queued job to another place of the order. placeUnplaced comes after
 * it. A job without a key, or that is blocked, has no place.
 */
export function leaveLine(database: Database, seq: number): void {
  const { connection } = database
  const row = connection.statement(PLACE_OF).get({ seq }) as PlacedRow | undefined
  if (row === undefined) return
  connection.statement(LEAVE_LINE).run({ seq })
  const { endpoint, priority, key, turn, cost } = row
  if (turn !== NO_TURN) {
    closeUp(database, { endpoint, priority, key }, [{ seq, turn, cost }])
  }
}

interface PlacedRow extends KeyInLane {
  turn: number
  cost: number
}

/** Alarms whose time has come: their keys get turns. */
export function ripen(database: Database, endpoint: string, priority: number, now: number): void {
  const rows = database.connection.statement(RIPE_ALARMS).all({ endpoint, priority, now })
  for (const { key } of rows) giveTurns(database, { endpoint, priority, key: key as string })
}

/**
 * Places the jobs that this transaction has queued again. If there are none it costs one seek.
 */
export function placeUnplaced(database: Database): void {
  const { connection } = database
  for (;;) {
    const rows = connection.statement(NEXT_UNPLACED).all() as unknown as UnplacedRow[]
    for (const { seq } of rows) connection.statement(MARK_PLACED).run({ seq })
    const keys = new Map(
      rows.map((row) => [JSON.stringify([row.endpoint, row.priority, row.key]), row]),
    )
    for (const { endpoint, priority, key } of keys.values()) {
      giveTurns(database, { endpoint, priority, key })
      // An attempt of the key has ended.
      wakeParked(database, { endpoint, key })
    }
    if (rows.length < PLACED_AT_ONCE) return
  }
}

interface UnplacedRow extends KeyInLane {
  seq: number
}
