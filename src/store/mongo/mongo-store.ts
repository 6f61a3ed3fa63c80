// The MongoDB store: the port of src/store/store.ts, each verb in a file of its own.
// Every write carries its whole guard (guards.ts) and is kept by a majority before it is answered.
import { createSecretBox, type SecretBox } from '../secret-box.ts'
import { type ApiMode, type Store, type StoreSettings, StoreUnusable } from '../store.ts'
import { rememberAcceptingEndpoints } from './accepting-endpoints.ts'
import { cancel, retry } from './by-hand.ts'
import { createClaimer } from './claim.ts'
import { type MongoClock, startClock } from './clock.ts'
import { type Connection, connect } from './connect.ts'
import type { MongoContext } from './context.ts'
import { createDisowner } from './disown.ts'
import type { EndpointDocument, JobDocument, MetaDocument } from './documents.ts'
import { deleteEndpoint, endpointsNamed, listEndpoints, putEndpoint } from './endpoints.ts'
import { enqueue } from './enqueue.ts'
import { watchGoneEndpoints } from './gone-endpoints.ts'
import { Hints } from './hints.ts'
import { countJobs, due, finalAmong, getJob, getPayload, listJobs } from './jobs.ts'
import { release, renew } from './leases.ts'
import { run, startDeadline } from './run-command.ts'
import { settle } from './settle.ts'
import { sweep } from './sweep.ts'

/** Endpoints whose secrets are tried at the start: a wrong key is to show then, not later. */
const ENDPOINTS_TRIED = 100

/**
 * Opens the store, making its indexes where they are missing.
 *
 * @throws StoreUnusable, with a sentence for the one who set it up; StoreUnavailable when no server
 *   answers
 */
export async function openMongoStore(url: string, settings: StoreSettings): Promise<Store> {
  const box = secretBoxOf(settings)
  return storeOn(await connect(url), settings, box)
}

/** The store on a connection, which it closes when it is closed, or can not be opened. */
export async function storeOn(
  { client, db }: Connection,
  settings: StoreSettings,
  box = secretBoxOf(settings),
): Promise<Store> {
  let commandCount = 0
  client.on('commandStarted', () => {
    commandCount += 1
  })
  let clock: MongoClock | undefined
  try {
    clock = await startClock(client)
    const jobs = db.collection<JobDocument>('jobs')
    const hints = new Hints(jobs)
    const context: MongoContext = {
      jobs,
      endpoints: db.collection<EndpointDocument>('endpoints'),
      meta: db.collection<MetaDocument>('meta'),
      clock,
      box,
      settings,
      hint: () => hints.announce(),
    }
    await listEndpoints(context, null, ENDPOINTS_TRIED)
    const ownClock = clock
    return assemble(context, hints, {
      commandCount: () => commandCount,
      ready: async () => {
        await run(startDeadline(), () => client.db('admin').command({ ping: 1 }))
      },
      close: async () => {
        ownClock.stop()
        await hints.close()
        await client.close()
      },
    })
  } catch (error) {
    clock?.stop()
    await client.close()
    throw error
  }
}

function secretBoxOf({ encryptionKeys }: StoreSettings): SecretBox {
  if (encryptionKeys !== null) return createSecretBox(encryptionKeys)
  throw new StoreUnusable(
    'With MongoDB, ENCRYPTION_KEY must be set: 32 random bytes in base64, the same for every ' +
      'process (openssl rand -base64 32). It encrypts the secrets of endpoints.',
  )
}

interface Process {
  commandCount(): number
  ready(): Promise<void>
  close(): Promise<void>
}

function assemble(
  context: MongoContext,
  hints: Hints,
  { commandCount, ready, close }: Process,
): Store {
  const disowner = createDisowner(context)
  const accepting = rememberAcceptingEndpoints(context.endpoints)
  const claimer = createClaimer(context, accepting, disowner)
  const goneEndpoints = watchGoneEndpoints(context, accepting.forget)
  return {
    clock: context.clock,
    get commandCount() {
      return commandCount()
    },
    enqueue: (jobs) => enqueue(context, jobs),
    due: (since) => due(context, since),
    claim: claimer.claim,
    settle: (settlements) => settle(context, settlements),
    renew: (leases, leaseMs) => renew(context, leases, leaseMs),
    release: (leases) => release(context, leases),
    sweep: (options) => sweep(context, goneEndpoints, options),

    cancel: (ids) => cancel(context, ids),
    retry: (ids) => retry(context, ids),
    getJob: (id) => getJob(context, id),
    getPayload: (id) => getPayload(context, id),
    listJobs: (query) => listJobs(context, query),
    finalAmong: (ids) => finalAmong(context, ids),

    async putEndpoint(settings, secrets, ifVersion) {
      const result = await putEndpoint(context, settings, secrets, ifVersion)
      accepting.forget(settings.name)
      return result
    },
    endpointsNamed: (names) => endpointsNamed(context, names),
    listEndpoints: (after, limit) => listEndpoints(context, after, limit),
    countJobs: (names) => countJobs(context, names),
    async deleteEndpoint(name, options) {
      const result = await deleteEndpoint(context, name, options)
      accepting.forget(name)
      return result
    },

    writeApiMode: (mode) => writeApiMode(context, mode),
    readApiMode: () => readApiMode(context),

    onWork: (listener) => hints.onWork(listener),
    ready,
    async close() {
      disowner.stop()
      await close()
    },
  }
}

async function writeApiMode(context: MongoContext, mode: ApiMode): Promise<void> {
  await run(startDeadline(), (limit) =>
    context.meta.updateOne({ _id: 'api_mode' }, { $set: mode }, { upsert: true, ...limit }),
  )
}

async function readApiMode(context: MongoContext): Promise<ApiMode | null> {
  return run(startDeadline(), (limit) =>
    context.meta.findOne<ApiMode>({ _id: 'api_mode' }, { projection: { _id: 0 }, ...limit }),
  )
}
