// Runs one call of a store on given documents while MongoDB has an election, and reports the
// problems of the result. See mongo-elections.test.ts.
import { AsyncLocalStorage } from 'node:async_hooks'
import { setTimeout as sleep } from 'node:timers/promises'
import { BSON, type CommandStartedEvent, type Db, type Document } from 'mongodb'
import { inject } from 'vitest'
import type { NewJob } from '../../src/job/job.ts'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { connect } from '../../src/store/mongo/connection.ts'
import { storeOn } from '../../src/store/mongo/store.ts'
import type { Claim, Holder, Store, StoreSettings } from '../../src/store/store.ts'
import { StoreUnavailable } from '../../src/store/store-errors.ts'
import type { ElectionProxy, Fault } from '../support/election-proxy.ts'
import { shapeOf, type VerbCall } from '../support/recorded-commands.ts'
import {
  type Documents,
  jobIdsIn,
  plain,
  readDocuments,
  restoreDocuments,
  textOf,
} from './documents.ts'

/** A call of a store, and the documents that exist before it. */
export interface Scenario {
  call: VerbCall
  documents: Documents
}

/** A database behind a proxy, and a second database with older documents. */
export interface Lane {
  proxy: ElectionProxy
  db: Db
  old: Db
  settings: StoreSettings
  /** A store that does not use the proxy, with a long retention. */
  sweeper: Store
}

export interface Case {
  /** The shape of the command that meets the faults. */
  shape: string
  /**
   * The fault that this command meets, then the fault of its repetition, and so on; `undefined`:
   * none.
   */
  faults: FaultName[]
}

/** A command as the call without a fault sent it. */
export interface SentCommand {
  shape: string
  isWrite: boolean
  /** Whether the call reads with majority concern after a write. */
  readsItsWrite: boolean
}

/** The effects of a call without a fault. */
export interface Expected {
  commands: SentCommand[]
  /** The results of the call, and of the same call repeated. */
  results: [string, string]
  /** The documents before the call, after it, and after its repetition. */
  before: string
  after: [string, string]
  /**
   * Only for a claim: the documents after the call, without the fields that a repeated claim
   * changes.
   */
  claimed: string
  ends: number
}

const FAULTS = {
  cut: { kind: 'cut' },
  unanswered: { kind: 'unanswered' },
  'not primary': { kind: 'refused', by: 'NotWritablePrimary' },
  'stepped down': { kind: 'refused', by: 'PrimarySteppedDown' },
  interrupted: { kind: 'refused', by: 'InterruptedDueToReplStateChange' },
  unconfirmed: { kind: 'unconfirmed', by: 'InterruptedDueToReplStateChange' },
} as const satisfies Record<string, Fault>

export type FaultName = keyof typeof FAULTS | 'rolled back' | 'old read'

/** The faults that a command can meet: these for a read, and more for a write. */
export const FAULTS_OF_READS: FaultName[][] = [
  ['cut', 'cut'],
  ['not primary', 'not primary'],
  ['stepped down'],
  ['interrupted'],
]
export const FAULTS_OF_WRITES: FaultName[][] = [
  ...FAULTS_OF_READS,
  ['unanswered'],
  ['unanswered', 'not primary'],
  ['unconfirmed'],
  ['rolled back'],
  ['rolled back', 'not primary'],
]
/** The faults of a read after a write of the same call. */
export const OLD_READ: FaultName[] = ['old read', 'old read']

/** A claim whose response was lost is released within seconds, and so is its admission. */
const RELEASE_DEADLINE_MS = 12_000
const LOOK_AGAIN_MS = 100
const MAX_REPETITIONS = 3
/** Marks that lead to work at once, or let it wait. Without them, that work is done later. */
const MARKS = ['hasDependents', 'effectsPending', 'freedAt', 'neededCount', 'keptUntil']
/**
 * These calls do many things, each of which is complete in itself. A repeated call does the rest.
 */
const GRADUAL = new Set(['sweep', 'outbox.setAside'])

/** Makes the call twice without a fault. */
export async function expectedOf(lane: Lane, scenario: Scenario): Promise<Expected> {
  await restoreDocuments(lane.old, scenario.documents)
  await restoreDocuments(lane.db, scenario.documents)
  const known = knownOf(scenario)
  const opened = await openStore(lane)
  try {
    const before = await stateOf(lane, known)
    const results: string[] = []
    const after: string[] = []
    let commands: SentCommand[] = []
    let ends = 0
    let claimed = ''
    for (let i = 0; i < 2; i++) {
      // The second call may fail: for instance, the same API key cannot be added twice.
      const outcome = await outcomeOf(() => opened.play(scenario.call, null))
      if (outcome.kind !== 'result' && i === 0) throw outcome.error
      results.push(outcomeText(outcome, known))
      if (i === 0) ({ ends } = opened)
      if (i === 0) commands = opened.sent()
      if (i === 0) claimed = await claimedState(lane)
      after.push(await stateOf(lane, known))
    }
    return { commands, results, before, after, claimed, ends } as Expected
  } finally {
    await opened.close()
  }
}

/** Returns the problem after the faults; null: there is none. */
export async function problemOf(
  lane: Lane,
  scenario: Scenario,
  expected: Expected,
  played: Case,
): Promise<string | null> {
  await restoreDocuments(lane.db, scenario.documents)
  const opened = await openStore(lane)
  try {
    const isClaim = scenario.call.verb === 'claim'
    const findProblem = isClaim ? problemOfClaim : problemOfCall
    return await findProblem(lane, opened, scenario, expected, played)
  } finally {
    await opened.close()
  }
}

async function problemOfCall(
  lane: Lane,
  opened: OpenedStore,
  scenario: Scenario,
  expected: Expected,
  played: Case,
): Promise<string | null> {
  const known = knownOf(scenario)
  const first = await outcomeOf(() => opened.play(scenario.call, played))
  if (opened.metCount() === 0) return 'no command met the fault'
  if (opened.ends > expected.ends)
    return `the store reported ${opened.ends} ends, not ${expected.ends}`
  const state = await stateOf(lane, known)
  const swept = sweptStates(lane, scenario, expected)
  const isGradual = GRADUAL.has(scenario.call.verb) || losesKeys(scenario.call)
  if (first.kind === 'other') return `threw ${first.error}`
  if (first.kind === 'result') {
    const result = resultText(first.value, known)
    // The result of a call is as old as the data that it read.
    const isCurrent = !played.faults.includes('old read') && !isGradual
    if (isCurrent && result !== expected.results[0]) {
      return differenceOf('result', expected.results[0], result)
    }
    return isGradual ? null : swept.differenceFrom(['after'], state)
  }
  const isDone = state === expected.after[0]
  const isReleased =
    displaces(scenario.call) && state === withoutNew(expected.after[0], scenario.call)
  const isAsExpected = isGradual || isReleased
  const half = isAsExpected ? null : await swept.differenceFrom(['before', 'after'], state)
  if (half !== null) return `after StoreUnavailable, ${half}`
  const again = await repeated(opened, scenario.call)
  if (again.kind === 'unavailable') return `the repeated call failed: ${again.error}`
  const result = outcomeText(again, known)
  // The first call has done a part of the work that these results count.
  if (!isGradual && !expected.results.includes(result)) {
    return differenceOf('result of the repeated call', expected.results[isDone ? 1 : 0], result)
  }
  const end = await stateOf(lane, known)
  return swept.differenceFrom(isDone || isGradual ? ['after', 'again'] : ['after'], end)
}

/** Every job that a claim took must be returned, or come back without the loss of an attempt. */
async function problemOfClaim(
  lane: Lane,
  opened: OpenedStore,
  scenario: Scenario,
  expected: Expected,
  played: Case,
): Promise<string | null> {
  const wantedCount = (JSON.parse(expected.results[0]) as Claim).jobs.length
  const first = await outcomeOf(() => opened.play(scenario.call, played))
  if (opened.metCount() === 0) return 'no command met the fault'
  if (first.kind === 'other') return `threw ${first.error}`
  const claimed: string[] = []
  const take = (claim: unknown) => claimed.push(...(claim as Claim).jobs.map(({ jobId }) => jobId))
  if (first.kind === 'result') take(first.value)
  const endsAtMs = performance.now() + RELEASE_DEADLINE_MS
  while (claimed.length < wantedCount && performance.now() < endsAtMs) {
    await sleep(LOOK_AGAIN_MS)
    const again = await outcomeOf(() => opened.play(scenario.call, null))
    if (again.kind !== 'result') return `the repeated claim failed: ${again.error}`
    take(again.value)
  }
  if (claimed.length !== new Set(claimed).size) return `claimed twice: ${claimed}`
  // A claim that is not released within its lease is left to the sweep.
  if ((scenario.call.args[2] as Holder).leaseMs < RELEASE_DEADLINE_MS) return null
  const ends = [expected.claimed]
  if (limitsRateOfKeys(scenario)) ends.push(textOf(scenario.documents, new Set(), OF_A_CLAIM))
  let state = await claimedState(lane)
  // A claim whose response was lost is released later.
  while (!ends.includes(state) && performance.now() < endsAtMs) {
    await sleep(LOOK_AGAIN_MS)
    state = await claimedState(lane)
  }
  return ends.includes(state) ? null : differenceOf('state', expected.claimed, state)
}

/** Tokens of a claim whose response was lost are used up, and no more may come for a day. */
function limitsRateOfKeys({ documents }: Scenario): boolean {
  const endpoints = [...(documents.get(COLLECTIONS.endpoints)?.values() ?? [])]
  return endpoints.some((raw) => BSON.deserialize(raw).perKey?.rateLimit)
}

/**
 * Fields that may differ after a claim. While the jobs of a claim whose response was lost are not
 * released, the next claim takes the jobs after them, of other keys and priorities. A released
 * claim has used a fence, and an admission that is not released ends by itself. An endpoint that a
 * shared limit refused gets its place in the line with the next claim.
 */
const OF_A_CLAIM = [
  ...['fence', 'version', 'freedAt', 'startedAt', 'writeId', 'rateFullAt', 'bucket'],
  ...['admissionHolder', 'admissionUntil', 'waits'],
  ...['fairnessKey', 'priority', 'cost', 'turn', 'admitsNext', 'lanes'],
]

function claimedState(lane: Lane): Promise<string> {
  return stateOf(lane, new Set(), OF_A_CLAIM)
}

/** Compares states, and if they differ, the states after a sweep. */
function sweptStates(lane: Lane, scenario: Scenario, expected: Expected) {
  const known = knownOf(scenario)
  const texts = { before: expected.before, after: expected.after[0], again: expected.after[1] }
  const sweptAfter = async (calls: number) => {
    await restoreDocuments(lane.db, scenario.documents)
    const opened = await openStore(lane)
    for (let i = 0; i < calls; i++) await opened.play(scenario.call, null)
    await opened.close()
    await sweepAll(lane)
    return stateOf(lane, known)
  }
  return {
    async differenceFrom(names: (keyof typeof texts)[], state: string): Promise<string | null> {
      if (names.some((name) => texts[name] === state)) return null
      const present = await readDocuments(lane.db)
      await sweepAll(lane)
      const swept = await stateOf(lane, known)
      const calls = { before: 0, after: 1, again: 2 }
      const others = []
      for (const name of names) others.push(await sweptAfter(calls[name]))
      await restoreDocuments(lane.db, present)
      if (others.includes(swept)) return null
      return differenceOf('swept state', others.at(-1) as string, swept)
    },
  }
}

/** A sweep settles the adds to groups that were left, although they are not old yet. */
async function sweepAll({ sweeper, db }: Lane): Promise<void> {
  const old = { $set: { 'adds.$[].at': new Date(0) } }
  await db.collection(COLLECTIONS.groups).updateMany({ 'adds.0': { $exists: true } }, old)
  for (let i = 0; i < 4; i++) await sweeper.sweep({ limit: 100, reclaim: true })
}

/**
 * Whether the call takes the dedupe key from another job. The other job gives it up in one write,
 * and the new job is stored in the next (docs/decisions/0028-reads-after-an-election.md).
 */
function displaces({ verb, args }: VerbCall): boolean {
  if (verb !== 'enqueue') return false
  return (args[0] as NewJob[]).some(({ dedupe }) => dedupe?.mode === 'replace')
}

/** Without the jobs that the call stores. */
function withoutNew(state: string, { args }: VerbCall): string {
  const ids = (args[0] as NewJob[]).map(({ id }) => `"_id":"${id}"`)
  const lines = state.split('\n')
  return lines.filter((line) => !ids.some((id) => line.includes(id))).join('\n')
}

/** On the stand-in, the new job is stored without its key, which a third write gives it. */
function losesKeys(call: VerbCall): boolean {
  return inject('mongoEngine') === 'secantusd-rs' && displaces(call)
}

type Outcome =
  | { kind: 'result'; value: unknown; error: null }
  | { kind: 'unavailable' | 'other'; error: unknown }

async function outcomeOf(work: () => Promise<unknown>): Promise<Outcome> {
  try {
    return { kind: 'result', value: await work(), error: null }
  } catch (error) {
    return { kind: error instanceof StoreUnavailable ? 'unavailable' : 'other', error }
  }
}

/** The election can last a little longer than the first call, and refuse commands of this one. */
async function repeated(opened: OpenedStore, call: VerbCall): Promise<Outcome> {
  for (let tries = 1; ; tries++) {
    const outcome = await outcomeOf(() => opened.play(call, null))
    if (outcome.kind !== 'unavailable' || tries === MAX_REPETITIONS) return outcome
    await sleep(LOOK_AGAIN_MS)
  }
}

interface OpenedStore {
  /** Makes the call, with the faults of a case. */
  play(call: VerbCall, played: Case | null): Promise<unknown>
  /** The commands of the last call. */
  sent(): SentCommand[]
  /** How many commands of the last call met a fault. */
  metCount(): number
  readonly ends: number
  close(): Promise<void>
}

async function openStore({ proxy, db, old, settings }: Lane): Promise<OpenedStore> {
  proxy.decide = () => null
  const connection = await connect(proxy.url)
  const calling = new AsyncLocalStorage<true>()
  const shapes = new Map<number, string>()
  let sent: SentCommand[] = []
  let hasWritten = false
  let met = 0
  let ends = 0
  connection.client.on('commandStarted', ({ requestId, command }: CommandStartedEvent) => {
    if (!calling.getStore() || 'hello' in command) return
    const shape = shapeOf(command)
    const isWrite = isWriteCommand(command)
    const readsItsWrite = !isWrite && hasWritten && command.readConcern?.level === 'majority'
    sent.push({ shape, isWrite, readsItsWrite })
    hasWritten ||= isWrite
    shapes.set(requestId, shape)
  })
  const store = await storeOn({ ...connection, names: COLLECTIONS }, settings)
  store.onEnd(() => {
    ends += 1
  })
  const faultNamed = (name: FaultName): Fault => {
    if (name === 'old read') return { kind: 'old_read', database: old.databaseName }
    if (name !== 'rolled back') return FAULTS[name]
    const remember = async () => {
      const documents = await readDocuments(db)
      return () => restoreDocuments(db, documents)
    }
    return { kind: 'rolled_back', by: 'PrimarySteppedDown', remember }
  }
  return {
    async play({ verb, args }, played) {
      ;[sent, hasWritten, met] = [[], false, 0]
      proxy.decide = (requestId) => {
        if (played === null || shapes.get(requestId) !== played.shape) return null
        const name = played.faults[met]
        if (name === undefined) return null
        met += 1
        return faultNamed(name)
      }
      const [owner, method] = verb.includes('.') ? verb.split('.') : [null, verb]
      const target = (owner === null ? store : store.outbox) as unknown as Record<string, unknown>
      const work = target[method as string] as (...given: unknown[]) => Promise<unknown>
      return calling.run(true, () => work.apply(target, args))
    },
    sent: () => sent,
    metCount: () => met,
    get ends() {
      return ends
    },
    close: () => store.close(),
  }
}

export function isWriteCommand(command: Document): boolean {
  const name = Object.keys(command)[0] ?? ''
  if (['insert', 'update', 'delete', 'findAndModify', 'commitTransaction'].includes(name)) {
    return true
  }
  return ((command.pipeline ?? []) as Document[]).some((stage) => '$merge' in stage)
}

/** Ids of jobs that are not new: those in the documents, and those in the arguments of the call. */
function knownOf({ call, documents }: Scenario): ReadonlySet<string> {
  const stored = [...(documents.get('posthorn_jobs') ?? new Map<string, Uint8Array>()).keys()]
  return new Set([...stored, JSON.stringify(call.args)].flatMap(jobIdsIn))
}

async function stateOf({ db }: Lane, known: ReadonlySet<string>, without = MARKS) {
  return textOf(await readDocuments(db), known, without)
}

function outcomeText(outcome: Outcome, known: ReadonlySet<string>): string {
  return outcome.kind === 'result' ? resultText(outcome.value, known) : `threw ${outcome.error}`
}

function resultText(result: unknown, known: ReadonlySet<string>): string {
  return JSON.stringify(plain(result, known))
}

/** The lines that only one of the two texts has. */
function differenceOf(what: string, expected: string, found: string): string {
  const [one, other] = [expected, found].map((text) => text.split('\n')) as [string[], string[]]
  const missing = one.filter((line) => !other.includes(line))
  const extra = other.filter((line) => !one.includes(line))
  return `${what}: expected\n  ${missing.join('\n  ')}\nfound\n  ${extra.join('\n  ')}`
}
