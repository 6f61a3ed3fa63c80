// What applying a file would change: compares its records with those of the server.
import { isDeepStrictEqual } from 'node:util'
import { type Posthorn, PosthornError } from '../../src/client/client.ts'
import { withLowerNames } from '../../src/endpoint/extra-headers.ts'
import { errorInCommandWords } from '../command-words.ts'
import { isMapping, readSettingsFile, refuseFaults } from '../document.ts'
import { cleaned } from '../terminal-text.ts'
import {
  type Canonical,
  canonicalEndpoint,
  canonicalLimit,
  canonicalSchedule,
  isName,
} from './canonical.ts'

type Kind = 'limit' | 'endpoint' | 'schedule'

export interface FieldChange {
  field: string
  before: unknown
  after: unknown
}

/** One record of the file. */
export interface Item {
  kind: Kind
  name: string
  /** The fields as they are in the file; they are sent. */
  given: Record<string, unknown>
  /** The fields as the API will return them. */
  wanted: Record<string, unknown>
}

export interface Step extends Item {
  /** The version on the server; null: it does not exist there yet. */
  version: number | null
  changes: FieldChange[]
}

/** Endpoints refer to limits, and schedules to endpoints. */
const SECTIONS = { limits: 'limit', endpoints: 'endpoint', schedules: 'schedule' } as const

/**
 * Reads and checks the whole file.
 *
 * @throws UsageError with a line for each fault
 */
export async function readItems(path: string, posthorn: Posthorn): Promise<Item[]> {
  const file = await readSettingsFile(path)
  const faults = [...file.faults]
  const note = (at: PropertyKey[], message: string) =>
    faults.push({ line: file.lineOf(at), text: `${at.join('.')}: ${message}` })
  for (const name of Object.keys(file.fields)) {
    if (!Object.hasOwn(SECTIONS, name))
      note([name], 'expected limits, endpoints and schedules only')
  }
  const items: Item[] = []
  for (const [section, kind] of Object.entries(SECTIONS)) {
    const entries = file.fields[section] ?? {}
    if (!isMapping(entries)) {
      note([section], 'expected a mapping of names')
      continue
    }
    for (const [name, given] of Object.entries(entries)) {
      const canonical = canonicalOf(kind, name, given)
      if ('fields' in canonical) {
        const known = given as Record<string, unknown>
        items.push({ kind, name, given: known, wanted: canonical.fields })
      } else {
        for (const { path, message } of canonical.problems) note([section, name, ...path], message)
      }
    }
  }
  const unchecked = await noteUnknownNames(posthorn, file.fields, faults.length > 0, note)
  refuseFaults(path, faults, unchecked)
  return items
}

function canonicalOf(kind: Kind, name: string, given: unknown): Canonical {
  if (kind === 'limit') return canonicalLimit(name, given)
  return kind === 'endpoint' ? canonicalEndpoint(name, given) : canonicalSchedule(name, given)
}

/** Compares with what the server has. */
export async function planOf(posthorn: Posthorn, items: readonly Item[]): Promise<Step[]> {
  const steps: Step[] = []
  for (const item of items) {
    const stored = await readStored(posthorn, item)
    const version = stored === null ? null : stored.version
    steps.push({ ...item, version, changes: differences(stored, item.wanted) })
  }
  return steps
}

/**
 * Checks that the endpoint of each schedule, that of its onFinish, and the limits of each endpoint
 * are in the file or on the server.
 *
 * @param hasFaults the file has other faults: a server that does not respond is only mentioned
 * @returns lines to print after the faults
 */
async function noteUnknownNames(
  posthorn: Posthorn,
  fields: Record<string, unknown>,
  hasFaults: boolean,
  note: (at: PropertyKey[], message: string) => void,
): Promise<string[]> {
  const known = {
    limit: new Set(Object.keys(sectionOf(fields.limits))),
    endpoint: new Set(Object.keys(sectionOf(fields.endpoints))),
  }
  for (const { kind, name, at } of namesIn(fields)) {
    // If it is not a valid name, the schema has reported it.
    if (!isName(name) || known[kind].has(name)) continue
    try {
      const stored = await readStored(posthorn, { kind, name })
      if (stored !== null && stored.state !== 'deleting') known[kind].add(name)
      else note(at, `there is no ${kind} "${name}"`)
    } catch (error) {
      if (!hasFaults || !(error instanceof PosthornError)) throw error
      return [
        `limits and endpoints that are not in this file were not checked: ${cleaned(errorInCommandWords(error).detail)}`,
      ]
    }
  }
  return []
}

/** The limits and endpoints that records of the file name. */
function namesIn(
  fields: Record<string, unknown>,
): { kind: 'limit' | 'endpoint'; name: unknown; at: PropertyKey[] }[] {
  const limits = Object.entries(sectionOf(fields.endpoints)).flatMap(([endpoint, given]) => {
    const names = sectionOf(given).limits
    return (Array.isArray(names) ? names : []).map((name: unknown, i) => {
      const at: PropertyKey[] = ['endpoints', endpoint, 'limits', i]
      return { kind: 'limit' as const, name, at }
    })
  })
  const endpoints = Object.entries(sectionOf(fields.schedules)).flatMap(([schedule, given]) => {
    const { endpoint, onFinish } = sectionOf(given)
    const notified = isMapping(onFinish) ? onFinish.endpoint : onFinish
    return Object.entries({ endpoint, onFinish: notified }).map(([field, name]) => {
      const at: PropertyKey[] = ['schedules', schedule, field]
      return { kind: 'endpoint' as const, name, at }
    })
  })
  return [...limits, ...endpoints]
}

function sectionOf(value: unknown): Record<string, unknown> {
  return isMapping(value) ? value : {}
}

type Stored = Record<string, unknown> & { version: number }

async function readStored(
  posthorn: Posthorn,
  { kind, name }: Pick<Item, 'kind' | 'name'>,
): Promise<Stored | null> {
  const { limits, endpoints, schedules } = posthorn
  const calls = { limit: limits, endpoint: endpoints, schedule: schedules }[kind]
  try {
    return (await calls.get(name)) as unknown as Stored
  } catch (error) {
    if (error instanceof PosthornError && error.code === `${kind}_not_found`) return null
    throw error
  }
}

export function differences(
  stored: Record<string, unknown> | null,
  wanted: Record<string, unknown>,
): FieldChange[] {
  if (stored === null) return []
  return Object.entries(wanted)
    .filter(([field, after]) => !isSame(field, stored[field], after))
    .map(([field, after]) => ({ field, before: stored[field], after }))
}

/** The case of a header's name is no difference: the API would change nothing. */
function isSame(field: string, before: unknown, after: unknown): boolean {
  if (field !== 'headers' || !isMapping(before) || !isMapping(after))
    return isDeepStrictEqual(before, after)
  const lower = (headers: Record<string, unknown>) =>
    withLowerNames(headers as Record<string, string>)
  return isDeepStrictEqual(lower(before), lower(after))
}

export function isUnchanged({ version, changes }: Step): boolean {
  return version !== null && changes.length === 0
}
