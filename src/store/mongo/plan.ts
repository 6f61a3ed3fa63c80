// Explains commands, and checks in the replies of MongoDB whether each access to a collection reads
// little more than it returns. The replies can be those of both query engines of mongod, of
// aggregates and of mongos.
// https://www.mongodb.com/docs/manual/reference/explain-results/
import type { CommandStartedEvent, Db, Document } from 'mongodb'
import type { CommandPlan } from '../doctor-report.ts'
import { StoreUnavailable } from '../store-errors.ts'
import { run, startDeadline } from './connection.ts'

export type PlanFault = 'collection_scan' | 'sort' | 'unbounded_field' | 'many_keys'

export interface PlanFinding {
  fault: PlanFault
  message: string
}

interface IndexScan {
  index: string
  /**
   * For each field of the index, its intervals as MongoDB writes them. Empty: the id is looked up.
   */
  bounds: Record<string, string[]>
}

/** An access to one collection. An aggregate has one for each of its pipelines. */
export interface PlannedAccess {
  /** Database and collection. */
  namespace: string
  /** The fields that the query names. */
  fields: string[]
  /** The stages of the plan that won, from its result down to its scans. */
  stages: string[]
  scans: IndexScan[]
  /** null: the plan was not carried out, as its verbosity was `queryPlanner`. */
  counts: PlanCounts | null
}

interface PlanCounts {
  results: number
  keysExamined: number
  documentsExamined: number
}

/** Limit of keys that a scan may examine for each of its results. */
const MAX_KEYS_PER_RESULT = 2

/** An interval without an end, which a scan walks up or down. */
const UNBOUNDED = new Set(['[MinKey, MaxKey]', '[MaxKey, MinKey]'])

/** Stages that look up one document by its id, and have no bounds. */
const BY_ID_STAGES = ['IDHACK', 'EXPRESS_IXSCAN', 'EXPRESS_UPDATE', 'EXPRESS_DELETE']

/**
 * Stages that return fewer entries than they were given, although all of these were asked for. One
 * of mongod's query engines writes the names in capitals, the other in small letters.
 */
const CONSUMING_STAGES = new Set(['GROUP', 'COUNT', 'SKIP', 'UPDATE', 'DELETE', 'BATCHED_DELETE'])

/**
 * Finds the problems of the plan of a command.
 *
 * @param explained the reply to `explain`; with `executionStats`, the keys are counted, too
 * @param allowed the faults that this command is known to have
 */
export function checkPlan(explained: Document, allowed: readonly PlanFault[] = []): PlanFinding[] {
  const accesses = accessesOf(explained)
  if (accesses.length === 0) throw new Error('the reply to explain has no plan')
  const outside: PlanFinding[] = sortsOutside(explained)
    ? [{ fault: 'sort', message: 'a stage of the pipeline sorts in memory' }]
    : []
  const findings = [...outside, ...accesses.flatMap(findingsOf)]
  return findings.filter(({ fault }) => !allowed.includes(fault))
}

/** Returns the accesses that a command would make to collections. */
export function accessesOf(explained: Document): PlannedAccess[] {
  return partsOf(explained).flatMap((part) => {
    const planner = part.queryPlanner as Document | undefined
    if (planner === undefined) return []
    return plansOf(planner).map((plan) => accessOf(plan, planner, part.executionStats))
  })
}

/** From 0 to 9. */
const PRIORITY_COUNT = 10

function findingsOf({ namespace, fields, stages, scans, counts }: PlannedAccess): PlanFinding[] {
  const findings: PlanFinding[] = []
  const add = (fault: PlanFault, message: string) => findings.push({ fault, message })
  if (stages.includes('COLLSCAN')) add('collection_scan', `${namespace} is read from end to end`)
  if (stages.includes('SORT')) add('sort', `the results of ${namespace} are sorted in memory`)
  for (const { index, bounds } of scans) {
    const unbounded = Object.keys(bounds).filter(
      (field) => fields.includes(field) && bounds[field]?.some((text) => UNBOUNDED.has(text)),
    )
    for (const field of unbounded) {
      add('unbounded_field', `the index ${index} is read for all values of ${field}`)
    }
  }
  // A range may hold no result, and a scan of several examines one more key at the end of each.
  const ranges = scans.reduce((sum, { bounds }) => sum + rangesOf(bounds), 0)
  if (counts !== null) {
    const { keysExamined, results } = counts
    if (keysExamined > MAX_KEYS_PER_RESULT * (results + ranges)) {
      const text = `${keysExamined} index keys of ${namespace} are read for ${results} results`
      add('many_keys', text)
    }
  }
  return findings
}

/** The number of ranges that a scan skips between. All priorities are one range each. */
function rangesOf(bounds: Record<string, string[]>): number {
  return Object.entries(bounds).reduce((product, [field, intervals]) => {
    const areAll = field === 'priority' && intervals.some((text) => UNBOUNDED.has(text))
    return product * (areAll ? PRIORITY_COUNT : intervals.length)
  }, 1)
}

/** On mongos, each shard has its own plan. */
function plansOf(planner: Document): Document[] {
  const shards = planner.winningPlan?.shards
  return Array.isArray(shards) ? shards : [planner]
}

function accessOf(plan: Document, planner: Document, stats: Document | undefined): PlannedAccess {
  const stages = stagesOf(plan.winningPlan)
  return {
    namespace: plan.namespace ?? planner.namespace,
    fields: fieldsOf(plan.parsedQuery ?? planner.parsedQuery ?? {}),
    stages: stages.map(({ stage }) => stage),
    scans: stages.flatMap(scanOf),
    counts: stats === undefined ? null : countsOf(statsOf(plan, stats)),
  }
}

/** On mongos, returns the statistics of this shard. */
function statsOf({ shardName }: Document, stats: Document): Document {
  const shards: Document[] = stats.executionStages?.shards ?? []
  return shards.find((shard) => shard.shardName === shardName) ?? stats
}

function countsOf(stats: Document): PlanCounts {
  return {
    results: resultsOf(stats),
    keysExamined: stats.totalKeysExamined,
    documentsExamined: stats.totalDocsExamined,
  }
}

/** What the deepest consuming stage received; without such a stage, what the plan returned. */
function resultsOf({ nReturned, executionStages }: Document): number {
  let results: number = nReturned
  let stage: Document | undefined = executionStages
  while (stage !== undefined) {
    const input: Document | undefined = stage.inputStage
    if (input !== undefined && isConsuming(stage)) results = input.nReturned
    stage = input
  }
  return results
}

function isConsuming({ stage, skip }: Document): boolean {
  // One of the query engines skips in the stage `limitskip`.
  return CONSUMING_STAGES.has(String(stage).toUpperCase()) || Number(skip) > 0
}

function scanOf({ stage, indexName, indexBounds }: Document): IndexScan[] {
  if (BY_ID_STAGES.includes(stage)) return [{ index: indexName ?? '_id_', bounds: {} }]
  if (indexName === undefined) return []
  // COUNT_SCAN has two ends in place of intervals.
  const bounds = Object.entries(indexBounds ?? {}).filter((entry): entry is [string, string[]] =>
    Array.isArray(entry[1]),
  )
  return [{ index: indexName, bounds: Object.fromEntries(bounds) }]
}

/** All stages of a plan, beginning with the one that returns its result. */
function stagesOf(plan: unknown): Document[] {
  return partsOf(plan).filter(({ stage }) => typeof stage === 'string')
}

/** A pipeline can have stages that mongod does not hand to its query engine. */
function sortsOutside(explained: Document): boolean {
  return partsOf(explained).some(({ $sort }) => $sort !== undefined)
}

/** The fields of a query, as mongod has parsed it. */
function fieldsOf(query: Document): string[] {
  const names = Object.entries(query).flatMap(([name, condition]) => {
    if (!name.startsWith('$')) return [name]
    return Array.isArray(condition) ? condition.flatMap(fieldsOf) : []
  })
  return [...new Set(names)]
}

/** The object and all objects in it, except the rejected plans and the command itself. */
function partsOf(value: unknown): Document[] {
  if (typeof value !== 'object' || value === null) return []
  const inner = Object.entries(value).filter(
    ([key]) => key !== 'rejectedPlans' && key !== 'command' && key !== 'parsedQuery',
  )
  const parts = inner.flatMap(([, part]) => partsOf(part))
  return Array.isArray(value) ? parts : [value, ...parts]
}

/** The server ends an explain after this. */
const EXPLAIN_LIMIT_MS = 1_000
/**
 * A command is explained when it has been carried out: its guard may match nothing any more. Fewer
 * keys than this show nothing, and a bad plan reads more of the hundreds of jobs.
 */
const NOTABLE_KEYS = 20

/** Explains each kind of command that a client sends to the collections of one prefix. */
export interface CommandExplainer {
  /** Listens to `commandStarted` of the client. */
  note(event: CommandStartedEvent): void
  /** Explains each kind of command that was sent since the last time. */
  explainNew(): Promise<void>
  plans(): CommandPlan[]
}

const EXPLAINABLE = ['find', 'aggregate', 'update', 'delete', 'findAndModify', 'count', 'distinct']
/** The fields that the driver adds and that an explain does not accept. */
const ADDED = [
  'lsid',
  '$db',
  '$clusterTime',
  'txnNumber',
  'startTransaction',
  'autocommit',
  'maxTimeMS',
  'readConcern',
  'writeConcern',
].concat(['$readPreference', 'comment', 'ordered'])

/** @param isTrusted false: the server's plans mean nothing, so that nothing is explained */
export function explainCommands(db: Db, prefix: string, isTrusted: boolean): CommandExplainer {
  const seen = new Set<string>()
  let waiting: { command: Document; text: string }[] = []
  const plans: CommandPlan[] = []

  return {
    note({ command, commandName }) {
      const collection = String(command[commandName])
      if (!EXPLAINABLE.includes(commandName) || !collection.startsWith(prefix)) return
      for (const one of explainableParts(command)) {
        const shape = shapeOf(one)
        if (seen.has(shape)) continue
        seen.add(shape)
        waiting.push({
          command: one,
          text: `${commandName} ${collection.slice(prefix.length)}: ${fieldsIn(one).join(', ')}`,
        })
      }
    },
    async explainNew() {
      const some = waiting
      waiting = []
      for (const { command, text } of some) {
        plans.push(
          isTrusted ? await planOf(db, command, text) : { ...NOT_EXPLAINED, command: text },
        )
      }
    },
    plans: () => plans,
  }
}

const NOT_EXPLAINED: Omit<CommandPlan, 'command'> = {
  ...{ findings: [], indexes: [], keysExamined: null, results: null },
}

async function planOf(db: Db, command: Document, text: string): Promise<CommandPlan> {
  try {
    const explained = await run(startDeadline(2 * EXPLAIN_LIMIT_MS), () =>
      db.command({ explain: command, verbosity: 'executionStats', maxTimeMS: EXPLAIN_LIMIT_MS }),
    )
    const accesses = accessesOf(explained)
    const counts = accesses.flatMap(({ counts: own }) => (own === null ? [] : [own]))
    return {
      command: text,
      findings: checkPlan(explained, allowedFor(command, explained, counts)).map(
        ({ message }) => message,
      ),
      indexes: accesses.flatMap(({ scans }) => scans.map(({ index }) => index)),
      keysExamined: counts.reduce((sum, { keysExamined }) => sum + keysExamined, 0),
      results: counts.reduce((sum, { results }) => sum + results, 0),
    }
  } catch (error) {
    const cause = error instanceof StoreUnavailable ? (error.cause ?? error) : error
    const findings = [`it could not be explained: ${(cause as Error).message}`]
    return { ...NOT_EXPLAINED, command: text, findings }
  }
}

/** The conditions of lists that no index serves. */
const LIST_FILTERS = ['failureReason', 'fairnessKey']

/** Findings that are not a fault for this command with so few documents. */
function allowedFor(command: Document, explained: Document, counts: PlanCounts[]): PlanFault[] {
  // mongod may sort few documents in memory, although another plan takes them in order.
  if (hasOrderedPlan(explained)) return ['sort', 'many_keys']
  // A page of a list reads up to MAX_ENTRIES_PER_PAGE entries for a condition that no index serves.
  const isFiltered =
    command.find !== undefined && fieldsIn(command).some((field) => LIST_FILTERS.includes(field))
  const isSmall = counts.every(
    ({ keysExamined, results }) => keysExamined <= MAX_KEYS_PER_RESULT * results + NOTABLE_KEYS,
  )
  return isFiltered || isSmall ? ['many_keys'] : []
}

/** Whether one of the plans that lost sorts nothing. */
function hasOrderedPlan(explained: Document): boolean {
  return partsOf(explained).some(({ rejectedPlans = [] }) =>
    rejectedPlans.some((plan: Document) => !stagesOf(plan).some(({ stage }) => stage === 'SORT')),
  )
}

/**
 * The parts of a command that are explained. An explain takes one update or deletion, not a batch.
 * Each pipeline of a `$unionWith` is explained alone: with `executionStats`, mongod 6.0.5 ends with
 * a segmentation fault on unions whose pipelines end in `$group`.
 */
export function explainableParts(command: Document): Document[] {
  const clean = Object.fromEntries(Object.entries(command).filter(([key]) => !ADDED.includes(key)))
  for (const list of ['updates', 'deletes']) {
    const changes = clean[list] as Document[] | undefined
    if (changes !== undefined) return changes.map((one) => ({ ...clean, [list]: [one] }))
  }
  const { aggregate, pipeline } = clean
  if (pipeline === undefined) return [clean]
  // A change stream reads the oplog, whatever is asked of it.
  if (pipeline[0]?.$changeStream !== undefined) return []
  return pipelinesOf(aggregate, pipeline).map((one) => ({ ...clean, ...one }))
}

/**
 * The pipelines, each with the collection that it reads, which may be another one than that of the
 * command.
 */
function pipelinesOf(
  aggregate: string,
  pipeline: Document[],
): { aggregate: string; pipeline: Document[] }[] {
  const own = pipeline.filter(({ $unionWith }) => !$unionWith)
  const unions = pipeline.flatMap(({ $unionWith }) =>
    $unionWith ? pipelinesOf($unionWith.coll, $unionWith.pipeline) : [],
  )
  return [{ aggregate, pipeline: own }, ...unions]
}

/**
 * The shape of a command without its values, but with short texts, because states and names of
 * indexes matter.
 */
function shapeOf(command: Document): string {
  return JSON.stringify(command, (_, value) => {
    if (typeof value === 'number' || typeof value === 'boolean') return typeof value
    if (typeof value === 'string') return value.length > 12 ? 'text' : value
    if (value instanceof Map) return Object.fromEntries(value)
    const isList = Array.isArray(value) && value.every((one) => typeof one !== 'object')
    return isList ? [typeof value[0]] : value
  })
}

/** The fields that its filters name. */
function fieldsIn(command: Document): string[] {
  const changes: Document[] = [...(command.updates ?? []), ...(command.deletes ?? [])]
  const matches = (command.pipeline ?? []).flatMap(({ $match }: Document) => $match ?? [])
  const filters = [command.filter, command.query, ...changes.map(({ q }) => q), ...matches]
  return [...new Set(filters.flatMap((filter) => Object.keys(filter ?? {})))]
}
