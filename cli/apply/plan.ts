// What a file would change: each endpoint and schedule of it against what the server has.
import { isDeepStrictEqual } from 'node:util'
import { type Posthorn, PosthornError } from '../../src/client/client.ts'
import { isMapping, readDocument } from '../document.ts'
import { UsageError } from '../exit.ts'
import { type Canonical, canonicalEndpoint, canonicalSchedule } from './canonical.ts'

export type Kind = 'endpoint' | 'schedule'

export interface FieldChange {
  field: string
  before: unknown
  after: unknown
}

/** One endpoint or schedule of the file. */
export interface Item {
  kind: Kind
  name: string
  /** As the file has it: what is sent. */
  given: Record<string, unknown>
  /** As it will be read back. */
  wanted: Record<string, unknown>
}

export interface Step extends Item {
  /** What the server has; null: nothing. */
  version: number | null
  changes: FieldChange[]
}

/** Endpoints come first: schedules name them. */
const SECTIONS = { endpoints: 'endpoint', schedules: 'schedule' } as const

/** @throws UsageError with a line for all that is wrong */
export async function readItems(path: string): Promise<Item[]> {
  const document = await readDocument(path)
  const problems: string[] = []
  const unknown = Object.keys(document).find((key) => !Object.hasOwn(SECTIONS, key))
  if (unknown !== undefined) problems.push(`${unknown}: expected endpoints and schedules only`)
  const items: Item[] = []
  for (const [section, kind] of Object.entries(SECTIONS)) {
    const entries = document[section] ?? {}
    if (!isMapping(entries)) {
      problems.push(`${section}: expected a mapping of names`)
      continue
    }
    for (const [name, given] of Object.entries(entries)) {
      const canonical = canonicalOf(kind, name, given)
      if ('fields' in canonical) {
        const known = given as Record<string, unknown>
        items.push({ kind, name, given: known, wanted: canonical.fields })
      } else problems.push(...canonical.problems.map((one) => `${section}.${name}: ${one}`))
    }
  }
  if (problems.length > 0) throw new UsageError(`${path} is wrong:\n  ${problems.join('\n  ')}`)
  return items
}

function canonicalOf(kind: Kind, name: string, given: unknown): Canonical {
  return kind === 'endpoint' ? canonicalEndpoint(name, given) : canonicalSchedule(name, given)
}

/**
 * Reads what the server has.
 *
 * @throws UsageError when a schedule is for an endpoint that is neither there nor in the file
 */
export async function planOf(posthorn: Posthorn, items: readonly Item[]): Promise<Step[]> {
  await refuseUnknownEndpoints(posthorn, items)
  const steps: Step[] = []
  for (const item of items) {
    const stored = await readStored(posthorn, item)
    const version = stored === null ? null : stored.version
    steps.push({ ...item, version, changes: differences(stored, item.wanted) })
  }
  return steps
}

async function refuseUnknownEndpoints(posthorn: Posthorn, items: readonly Item[]): Promise<void> {
  const made = new Set(items.filter(({ kind }) => kind === 'endpoint').map(({ name }) => name))
  const problems: string[] = []
  const schedules = items.filter(({ kind }) => kind === 'schedule')
  for (const { name, wanted } of schedules) {
    const endpoint = wanted.endpoint as string
    if (made.has(endpoint)) continue
    const stored = await readStored(posthorn, { kind: 'endpoint', name: endpoint })
    if (stored !== null && stored.state !== 'deleting') made.add(endpoint)
    else problems.push(`schedules.${name}: endpoint: there is no endpoint "${endpoint}"`)
  }
  if (problems.length > 0) throw new UsageError(`The file is wrong:\n  ${problems.join('\n  ')}`)
}

type Stored = Record<string, unknown> & { version: number }

async function readStored(
  posthorn: Posthorn,
  { kind, name }: Pick<Item, 'kind' | 'name'>,
): Promise<Stored | null> {
  const calls = kind === 'endpoint' ? posthorn.endpoints : posthorn.schedules
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
    .filter(([field, after]) => !isDeepStrictEqual(stored[field], after))
    .map(([field, after]) => ({ field, before: stored[field], after }))
}

export function isUnchanged({ version, changes }: Step): boolean {
  return version !== null && changes.length === 0
}
