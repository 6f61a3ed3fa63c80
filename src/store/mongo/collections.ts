// The collections of Posthorn in a database that an application may share. Their names carry a
// prefix, and a record in one of them says that they are ours: without it nothing is touched.
import type { Collection, Db } from 'mongodb'
import { COLLECTIONS } from '../collection-names.ts'
import { StoreUnusable } from '../store.ts'
import { isDuplicateKey, run, startDeadline } from './run-command.ts'

const NAMES: string[] = Object.values(COLLECTIONS)

/** Rises when documents or indexes change so that an older version cannot use the database. */
const SCHEMA = 1

/** The first document that Posthorn writes into a database. */
interface SchemaRecord {
  _id: 'schema'
  product: 'posthorn'
  schema: number
}

/**
 * Makes sure that the collections with our names are ours, and marks a database without any of
 * them. Comes before every other write; any number of processes may do it at once.
 *
 * @throws StoreUnusable when another application or a newer version uses these names
 */
export async function reserveCollections(db: Db): Promise<void> {
  const meta = db.collection<SchemaRecord>(COLLECTIONS.meta)
  const record = (await readRecord(meta, 'majority')) ?? (await markUnlessUsed(db, meta))
  if (record?.product !== 'posthorn') {
    throw new StoreUnusable(
      `The collection ${COLLECTIONS.meta} of the database ${db.databaseName} does not belong to ` +
        'Posthorn. Rename it, or name another database in STORE_URL.',
    )
  }
  if (record.schema !== SCHEMA) {
    throw new StoreUnusable(
      `The database ${db.databaseName} was written by another version of Posthorn (schema ` +
        `${record.schema}; this one uses ${SCHEMA}). Run that version.`,
    )
  }
}

async function markUnlessUsed(
  db: Db,
  meta: Collection<SchemaRecord>,
): Promise<SchemaRecord | null> {
  const used = await usedCollections(db)
  if (used.length > 0) {
    // Another process may have marked the database meanwhile, and filled these collections.
    const record = await readRecord(meta, 'local')
    if (record !== null) return record
    throw new StoreUnusable(
      `The database ${db.databaseName} holds ${used.join(', ')}, which Posthorn did not create: ` +
        `${COLLECTIONS.meta} has no record of it. Rename these collections, or name another ` +
        'database in STORE_URL.',
    )
  }
  const record: SchemaRecord = { _id: 'schema', product: 'posthorn', schema: SCHEMA }
  try {
    await run(startDeadline(), (limit) => meta.insertOne(record, limit))
    return record
  } catch (error) {
    // Another process that starts at the same time was first.
    if (isDuplicateKey(error)) return readRecord(meta, 'local')
    throw error
  }
}

/** `local` is what the primary has, also what it has not yet told the other members. */
function readRecord(
  meta: Collection<SchemaRecord>,
  level: 'local' | 'majority',
): Promise<SchemaRecord | null> {
  return run(startDeadline(), (limit) =>
    meta.findOne({ _id: 'schema' }, { readConcern: { level }, ...limit }),
  )
}

/** Those with our names that hold documents, or that are no plain collections. */
async function usedCollections(db: Db): Promise<string[]> {
  const listed = await run(startDeadline(), () =>
    db.listCollections({ name: { $in: NAMES } }, { nameOnly: true }).toArray(),
  )
  const used = await Promise.all(
    listed.map(async ({ name, type }) => {
      const found = await run(startDeadline(), (limit) =>
        db.collection(name).findOne({}, { projection: { _id: 1 }, ...limit }),
      )
      return found !== null || type !== 'collection' ? [name] : []
    }),
  )
  return used.flat().sort()
}
