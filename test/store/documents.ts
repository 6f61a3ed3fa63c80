// All documents of a database, to bring it back to them, and to compare it with them whatever the
// random ids and instants.
import { BSON, type Collection, type Db, type Document } from 'mongodb'
import { COLLECTIONS } from '../../src/store/collection-names.ts'

/** By collection; the bytes of each document by its `_id`. */
export type Documents = Map<string, Map<string, Uint8Array>>

const NAMES = [...Object.values(COLLECTIONS), 'outbox', 'outbox_rejected']
const NONE = Buffer.alloc(0)
const AS_STORED = { promoteValues: false, promoteLongs: false, bsonRegExp: true } as const
/** Another one with each write. */
const RANDOM = new Set([
  ...['leaseId', 'writeId', 'healthId', 'admissionHolder', 'holdId'],
  'durationMs',
])
/** Encrypted, which is random too. */
const SEALED_TEXT = /^v1\.[0-9a-f]{8}\./
const SEALED = new Set(['sealed', 'headers', 'secret', 'secrets'])
/** Of a payload or a result that is stored apart. */
const BODY_ID = /^job_\w+\.\d+\./
const JOB_ID = /^job_\w+$/
/** An instant, as the port and some documents have it: milliseconds. */
const FIRST_INSTANT = 1e12

export async function readDocuments(db: Db): Promise<Documents> {
  const all = await Promise.all(
    NAMES.map(async (name): Promise<[string, Map<string, Uint8Array>]> => {
      const found = await db.collection(name).find({}, { raw: true }).toArray()
      return [name, new Map((found as unknown as Uint8Array[]).map((raw) => [idOf(raw), raw]))]
    }),
  )
  return new Map(all)
}

/** Makes the documents of the database those. */
export async function restoreDocuments(db: Db, wanted: Documents): Promise<void> {
  const present = await readDocuments(db)
  await Promise.all(
    NAMES.map(async (name) => {
      const now = present.get(name) ?? new Map()
      const then = wanted.get(name) ?? new Map()
      const isOther = (id: string) =>
        Buffer.compare(now.get(id) ?? NONE, then.get(id) ?? NONE) !== 0
      const other = [...new Set([...now.keys(), ...then.keys()])].filter(isOther)
      if (other.length === 0) return
      // All of them first: a key may have gone from one to another.
      const gone = other.flatMap((id) => deserialised(now.get(id)) ?? [])
      const back = other.flatMap((id) => deserialised(then.get(id)) ?? [])
      const collection = db.collection<Document>(name)
      if (gone.length > 0) await collection.deleteMany({ _id: { $in: gone.map((one) => one._id) } })
      if (back.length > 0) await insert(collection, back)
    }),
  )
}

/** Each document as a line of text, in any order but the same for the same documents. */
export function textOf(
  documents: Documents,
  known: ReadonlySet<string>,
  without: string[],
): string {
  const jobs = Buffer.concat([...(documents.get(COLLECTIONS.jobs)?.values() ?? [])])
  const lines = [...documents].flatMap(([name, some]) =>
    [...some.values()].flatMap((raw) => {
      // A payload that no job names any more is deleted later.
      if (name === COLLECTIONS.bodies && !jobs.includes(BSON.deserialize(raw)._id)) return []
      const document = Object.entries(BSON.deserialize(raw)).filter(
        ([key]) => !without.includes(key),
      )
      return `${name} ${JSON.stringify(plain(Object.fromEntries(document), known))}`
    }),
  )
  return lines.sort().join('\n')
}

/** A value without what is another in each run. `known`: ids of jobs that are no new ones. */
export function plain(value: unknown, known: ReadonlySet<string>, key = ''): unknown {
  if (value === null || value === undefined) return null
  if (RANDOM.has(key)) return 'random'
  if (SEALED.has(key)) return 'sealed'
  if (value instanceof Date) return 'instant'
  if (value instanceof Uint8Array) return Buffer.from(value).toString()
  if (typeof value === 'number') return value > FIRST_INSTANT ? 'instant' : value
  if (typeof value === 'string' && BODY_ID.test(value)) return 'body'
  if (typeof value === 'string' && SEALED_TEXT.test(value)) return 'sealed'
  if (typeof value === 'string') return JOB_ID.test(value) && !known.has(value) ? 'new' : value
  if (typeof value !== 'object') return String(value)
  if (Array.isArray(value)) {
    const all = value.map((one) => plain(one, known, key))
    // Names and ids; no verb promises an order of these.
    return all.every((one) => typeof one === 'string') ? all.sort() : all
  }
  if (value instanceof Map) return plain([...value], known)
  if ('_bsontype' in value) {
    return value._bsontype === 'Binary' ? String((value as BSON.Binary).value()) : String(value)
  }
  // Of an outbox document.
  if (key === 'posthornMove') return 'random'
  // A field that is null may as well be absent.
  const fields = Object.entries(value).filter(([, inner]) => inner !== null)
  fields.sort(([a], [b]) => (a < b ? -1 : 1))
  return Object.fromEntries(fields.map(([name, inner]) => [name, plain(inner, known, name)]))
}

export function jobIdsIn(text: string): string[] {
  return text.match(/job_\w+/g) ?? []
}

/**
 * On some engines (secantusd-rs 0.5), a unique key that an update removed still prevents inserts,
 * but not updates.
 */
async function insert(collection: Collection<Document>, documents: Document[]): Promise<void> {
  const bare = documents.map(({ orderingSlot, dedupeHolder, ...rest }) => rest)
  await collection.insertMany(bare)
  for (const document of documents) {
    const hasKey = 'orderingSlot' in document || 'dedupeHolder' in document
    if (hasKey) await collection.replaceOne({ _id: document._id }, document)
  }
}

function idOf(raw: Uint8Array): string {
  return BSON.EJSON.stringify(BSON.deserialize(raw, AS_STORED)._id)
}

function deserialised(raw: Uint8Array | undefined): Document | undefined {
  return raw === undefined ? undefined : BSON.deserialize(raw, AS_STORED)
}
