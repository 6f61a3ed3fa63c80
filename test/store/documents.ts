// Reads all documents of a database, restores them, and compares them in a form that leaves out
// random ids and instants.
import { BSON, type Collection, type Db, type Document } from 'mongodb'
import { COLLECTIONS } from '../../src/store/collection-names.ts'

/** By collection: the bytes of each document, by its `_id`. */
export type Documents = Map<string, Map<string, Uint8Array>>

const NAMES = [...Object.values(COLLECTIONS), 'outbox', 'outbox_rejected']
const NONE = Buffer.alloc(0)
/** More than any test stores. */
const MOST_DOCUMENTS = 10_000
const AS_STORED = { promoteValues: false, promoteLongs: false, bsonRegExp: true } as const
/** How the bytes of a field begin that is named `_id` and is a text, after the document's length. */
const TEXT_ID = Buffer.from('\x02_id\0', 'latin1')
/** Fields that get another value with each write. */
const RANDOM = new Set([
  ...['leaseId', 'writeId', 'healthId', 'admissionHolder', 'holdId', 'groupAdd'],
  'durationMs',
  // A bucket refills all the time.
  'tokens',
])
/** An encrypted text, which is random as well. */
const SEALED_TEXT = /^v1\.[0-9a-f]{8}\./
const SEALED = new Set(['sealed', 'headers', 'secret', 'secrets'])
/** The id of a payload or result that is stored apart from its job. */
const BODY_ID = /^job_\w+\.\d+\./
const JOB_ID = /^job_\w+$/
/** Larger numbers are instants, in milliseconds. */
const FIRST_INSTANT = 1e12

/** One command reads all collections: to ask each of them takes most of the time of the tests. */
export async function readDocuments(db: Db): Promise<Documents> {
  const labelled = (name: string) => ({ $replaceWith: { name, document: '$$ROOT' } })
  const [first, ...others] = NAMES as [string, ...string[]]
  const unions = others.map((coll) => ({ $unionWith: { coll, pipeline: [labelled(coll)] } }))
  const cursor = db
    .collection(first)
    .aggregate([labelled(first), ...unions], { raw: true, batchSize: MOST_DOCUMENTS })
  const all: Documents = new Map(NAMES.map((name) => [name, new Map()]))
  for (const raw of (await cursor.toArray()) as unknown as Uint8Array[]) {
    const { name, document } = BSON.deserialize(raw, { raw: true })
    all.get(name)?.set(idOf(document), document)
  }
  return all
}

/** Makes the documents of the database equal to these. */
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
      // All of them are deleted first, because a unique key may have moved from one document to
      // another.
      const gone = other.flatMap((id) => deserialised(now.get(id)) ?? [])
      const back = other.flatMap((id) => deserialised(then.get(id)) ?? [])
      const collection = db.collection<Document>(name)
      if (gone.length > 0) await collection.deleteMany({ _id: { $in: gone.map((one) => one._id) } })
      if (back.length > 0) await insert(collection, back)
    }),
  )
}

/**
 * Each document as a line of text. The lines are sorted, so the same documents give the same text.
 */
export function textOf(
  documents: Documents,
  known: ReadonlySet<string>,
  without: string[],
): string {
  const jobs = Buffer.concat([...(documents.get(COLLECTIONS.jobs)?.values() ?? [])])
  const lines = [...documents].flatMap(([name, some]) =>
    [...some.values()].flatMap((raw) => {
      // Left out: a payload that no job names any more is deleted later.
      if (name === COLLECTIONS.bodies && !jobs.includes(BSON.deserialize(raw)._id)) return []
      const document = Object.entries(withoutOrder(BSON.deserialize(raw))).filter(
        ([key]) => !without.includes(key),
      )
      return `${name} ${JSON.stringify(plain(Object.fromEntries(document), known))}`
    }),
  )
  return lines.sort().join('\n')
}

/**
 * Leaves out what decides only about the order of jobs with fairness keys, and when claims look at
 * them: another number of tries may give another one. Also that a key of an endpoint may have
 * settings, which is noted before they are written, and which jobs of an add that failed were not
 * stored.
 */
function withoutOrder(document: Document): Document {
  const { lanes, turn, admitsNext, hasKeySettings, voided, ...others } = document
  if (document.fairnessKey === undefined) return others
  const { freedAt, parkedUntil, held, ...job } = others
  return { ...job, state: job.state === 'waiting' ? 'queued' : job.state }
}

/**
 * Replaces everything that differs between runs. `known`: ids of jobs that existed before the call.
 */
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
    // These are names and ids. No method of a store promises their order.
    return all.every((one) => typeof one === 'string') ? all.sort() : all
  }
  if (value instanceof Map) return plain([...value], known)
  if ('_bsontype' in value) {
    return value._bsontype === 'Binary' ? String((value as BSON.Binary).value()) : String(value)
  }
  // The mark of an outbox document that is being moved.
  if (key === 'posthornMove') return 'random'
  // A field with the value null counts as absent.
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

/** `_id` is the first field of a stored document, and mostly a text: the rest is not read. */
function idOf(raw: Uint8Array): string {
  const bytes = Buffer.from(raw.buffer, raw.byteOffset, raw.byteLength)
  if (bytes.compare(TEXT_ID, 0, TEXT_ID.length, 4, 4 + TEXT_ID.length) !== 0) {
    return BSON.EJSON.stringify(BSON.deserialize(raw, AS_STORED)._id)
  }
  const from = 4 + TEXT_ID.length + 4
  return JSON.stringify(bytes.toString('utf8', from, from + bytes.readInt32LE(from - 4) - 1))
}

function deserialised(raw: Uint8Array | undefined): Document | undefined {
  return raw === undefined ? undefined : BSON.deserialize(raw, AS_STORED)
}
