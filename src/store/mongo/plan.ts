// Checks the reply of MongoDB to `explain`: whether each access to a collection reads little more
// than it returns. Reads the replies of both query engines of mongod, of aggregates and of mongos.
// https://www.mongodb.com/docs/manual/reference/explain-results/
import type { Document } from 'mongodb'

export type PlanFault = 'collection_scan' | 'sort' | 'unbounded_field' | 'many_keys'

export interface PlanFinding {
  fault: PlanFault
  message: string
}

export interface IndexScan {
  index: string
  /** By field of the index, each interval as MongoDB writes it; none: the id is looked up. */
  bounds: Record<string, string[]>
}

/** An access to one collection. An aggregate has one for each of its pipelines. */
export interface PlannedAccess {
  /** Database and collection. */
  namespace: string
  /** The fields that the query names. */
  fields: string[]
  /** Of the plan that won, from its result down to its scans. */
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

/** Keys that a scan may examine for each of its results. */
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
 * What is wrong with the plan of a command.
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

/** What a command would read, access by access. */
export function accessesOf(explained: Document): PlannedAccess[] {
  return partsOf(explained).flatMap((part) => {
    const planner = part.queryPlanner as Document | undefined
    if (planner === undefined) return []
    return plansOf(planner).map((plan) => accessOf(plan, planner, part.executionStats))
  })
}

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
  // A scan of several ranges examines one more key at the end of each.
  const ranges = scans.reduce((sum, { bounds }) => sum + rangesOf(bounds), 0)
  if (counts !== null) {
    const { keysExamined, results } = counts
    if (keysExamined > MAX_KEYS_PER_RESULT * results + ranges) {
      const text = `${keysExamined} index keys of ${namespace} are read for ${results} results`
      add('many_keys', text)
    }
  }
  return findings
}

/** The number of ranges that a scan skips between. */
function rangesOf(bounds: Record<string, string[]>): number {
  return Object.values(bounds).reduce((product, intervals) => product * intervals.length, 1)
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

/** On mongos, those of this shard. */
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

/** What the deepest consuming stage was given, or else what the plan returned. */
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

/** All stages of a plan, from its result down. */
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

/** The object and all objects in it, but for the plans that lost and the command itself. */
function partsOf(value: unknown): Document[] {
  if (typeof value !== 'object' || value === null) return []
  const inner = Object.entries(value).filter(
    ([key]) => key !== 'rejectedPlans' && key !== 'command' && key !== 'parsedQuery',
  )
  const parts = inner.flatMap(([, part]) => partsOf(part))
  return Array.isArray(value) ? parts : [value, ...parts]
}
