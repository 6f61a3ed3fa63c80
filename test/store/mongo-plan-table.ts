// The table of plans, mongo-plans.txt: each query that the store sends to MongoDB, the index that
// serves it, and the bounds of its scan.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Document } from 'mongodb'
import type { PlanFault, PlannedAccess } from '../../src/store/mongo/plan.ts'

const FILE = join(import.meta.dirname, 'mongo-plans.txt')
const HEAD = `Each query of the store: the indexes that serve it, with the bounds of each field
(= for values, range, or all), whether it reads documents, and what it may cost although
mongo-plans.test.ts refuses it elsewhere. A distinct scan skips from one value of the first field
to the next.
To write this file again, with the same exceptions:
WRITE_PLANS=1 MONGO_ENGINE=mongod npx vitest run test/store/mongo-plans.test.ts
`
const NO_DOCUMENTS = 'reads no documents'
const ALLOWED = 'allowed: '

/** Fields whose values decide which partial index can serve. */
const SHOWN = new Set(['state', 'phase', 'deleting', 'paused', 'effectsPending', 'superseded'])

const SIGNS: Record<string, string> = {
  ...{ $eq: '=', $ne: '!=', $in: 'in', $exists: 'exists', $not: 'not' },
  ...{ $gt: '>', $gte: '>=', $lt: '<', $lte: '<=' },
}

export interface PlanRow {
  query: string
  /** For example `running: endpoint =, state =, _id all`, or `distinct running: …`. */
  scans: string[]
  readsDocuments: boolean
  allowed: PlanFault[]
}

export function readTable(): PlanRow[] {
  const [, ...parts] = readFileSync(FILE, 'utf8').trimEnd().split('\n\n')
  return parts.map((part) => {
    const [query = '', ...lines] = part.split('\n').map((line) => line.trim())
    const allowed = lines.find((line) => line.startsWith(ALLOWED))?.slice(ALLOWED.length)
    return {
      query,
      scans: lines.filter((line) => line !== NO_DOCUMENTS && !line.startsWith(ALLOWED)),
      readsDocuments: !lines.includes(NO_DOCUMENTS),
      allowed: (allowed?.split(', ') ?? []) as PlanFault[],
    }
  })
}

export function writeTable(rows: PlanRow[]): void {
  const parts = rows.map(({ query, scans, readsDocuments, allowed }) => {
    const lines = [
      ...scans,
      ...(readsDocuments ? [] : [NO_DOCUMENTS]),
      ...(allowed.length === 0 ? [] : [`${ALLOWED}${allowed.join(', ')}`]),
    ]
    return [query, ...lines.map((line) => `  ${line}`)].join('\n')
  })
  writeFileSync(FILE, `${[HEAD.trimEnd(), ...parts].join('\n\n')}\n`)
}

/** The part of a row that a plan shows. */
export function planOf({ scans, stages }: PlannedAccess): Omit<PlanRow, 'query' | 'allowed'> {
  // A distinct scan reads one entry for each value of the first field, and skips the others.
  const skips = stages.includes('DISTINCT_SCAN') ? 'distinct ' : ''
  const texts = scans.map(({ index, bounds }) => {
    const fields = Object.entries(bounds).map(([field, some]) => `${field} ${boundOf(some)}`)
    return [`${skips}${index}`, ...(fields.length === 0 ? [] : [fields.join(', ')])].join(': ')
  })
  const readsDocuments = stages.some((stage) => /FETCH|COLLSCAN|IDHACK|EXPRESS/.test(stage))
  return { scans: [...new Set(texts)].sort(), readsDocuments }
}

/** The query of one of the explainableParts of a command, without values. */
export function queryOf(command: Document): string {
  const [[verb, collection] = []] = Object.entries(command)
  const [change] = command.updates ?? command.deletes ?? []
  const hint = change?.hint ?? command.hint
  const filter = command.filter ?? command.query ?? change?.q ?? {}
  const parts = [
    ...(verb === 'find' || verb === 'aggregate' ? [] : [verb]),
    ...(command.pipeline === undefined
      ? [textOfFilter(filter), ...textOfSort(plain(command.sort ?? {}))]
      : textOfPipeline(command.pipeline)),
    ...returnsOf(command.projection),
    ...(hint === undefined ? [] : [`hint ${nameOf(hint)}`]),
  ]
  return `${collection}: ${parts.filter((part) => part !== '').join('; ')}`
}

function textOfPipeline(stages: Document[]): string[] {
  const [{ $match = {} } = {}, { $sort } = {}] = stages
  const names = stages.map((stage) => Object.keys(stage)[0] as string)
  const rest = names.filter((name) => !['$match', '$sort'].includes(name))
  const then = rest.length === 0 ? [] : [`then ${rest.join(' ')}`]
  return [textOfFilter($match), ...textOfSort($sort ?? {}), ...then]
}

function textOfFilter(filter: Document): string {
  const { $or, $and = [], ...own } = filter
  const conditions = [own, ...$and].flatMap((part: Document) => Object.entries(part))
  const texts = conditions.map(([path, condition]) => textOfCondition(path, condition))
  if ($or === undefined) return texts.join(', ')
  const alternatives = new Set(($or as Document[]).map((one) => `(${textOfFilter(one)})`))
  return [...texts, [...alternatives].join(' or ')].join(', ')
}

function textOfCondition(path: string, condition: unknown): string {
  const operators = isOperators(condition) ? condition : { $eq: condition }
  const texts = Object.entries(operators).map(([operator, operand]): string => {
    if (isOperators(operand)) return `${SIGNS[operator]} (${textOfCondition('', operand).trim()})`
    return `${SIGNS[operator]}${SHOWN.has(path) ? ` ${[operand].flat().join('|')}` : ''}`
  })
  return `${path} ${texts.join(' ')}`
}

export function isOperators(condition: unknown): condition is Document {
  const isPlain = Object.getPrototypeOf(condition ?? 0) === Object.prototype
  return isPlain && Object.keys(condition as object).some((name) => name.startsWith('$'))
}

function textOfSort(sort: Document): string[] {
  const fields = Object.entries(sort).map(([field, direction]) => `${field} ${direction}`)
  return fields.length === 0 ? [] : [`sort ${fields.join(', ')}`]
}

function returnsOf(projection: Document | undefined): string[] {
  const fields = Object.entries(projection ?? {}).filter(([, value]) => value === 1)
  return fields.length === 0 ? [] : [`returns ${fields.map(([field]) => field).join(', ')}`]
}

/** The name of a hint, which is a name or a key. */
function nameOf(hint: unknown): string {
  return typeof hint === 'string' ? hint : Object.keys(plain(hint as Document)).join(', ')
}

/** The driver keeps the order of a sort in a Map. */
function plain(sort: Document | Map<string, unknown>): Document {
  return sort instanceof Map ? Object.fromEntries(sort) : sort
}

function boundOf(intervals: string[]): string {
  if (intervals.every(isOneValue)) return '='
  return intervals.every((text) => /^\[(MinKey, MaxKey|MaxKey, MinKey)\]$/.test(text))
    ? 'all'
    : 'range'
}

/** Whether both ends of an interval are the same value, as in `["a", "a"]`. */
function isOneValue(interval: string): boolean {
  const ends = /^\[(.*)\]$/s.exec(interval)?.[1]
  if (ends === undefined) return false
  const half = (ends.length - 2) / 2
  return ends.slice(0, half) === ends.slice(half + 2)
}
