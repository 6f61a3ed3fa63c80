// At the start of a process: endpoints and schedules that an older key encrypted are encrypted with
// the first key, so that the older keys can be removed from ENCRYPTION_KEY without losing any.
import { type MongoContext, run, startDeadline } from './connection.ts'
import { type EndpointDocument, validSecrets } from './endpoint-document.ts'
import { type ScheduleDocument, schedulesIn } from './schedules.ts'

/** Limit of endpoints read together, with all encrypted values of each. */
const ENDPOINTS_AT_ONCE = 500
/** Limit of schedules read and encrypted together. */
const SCHEDULES_AT_ONCE = 200

type Sealed = Pick<ScheduleDocument, '_id' | 'settings'>

/** Throws StoreUnusable if no key decrypts an endpoint: that must show at the start, not later. */
export async function reencryptEndpoints(
  context: MongoContext,
  pageSize = ENDPOINTS_AT_ONCE,
): Promise<void> {
  let after: string | undefined = ''
  while (after !== undefined) {
    const found = await endpointsAfter(context, after, pageSize)
    for (const endpoint of found) await reencryptEndpoint(context, endpoint)
    after = found.length === pageSize ? found.at(-1)?._id : undefined
  }
}

export async function reencryptSchedules(
  context: MongoContext,
  pageSize = SCHEDULES_AT_ONCE,
): Promise<void> {
  if (context.settings.reencrypts === false) return
  let last: Sealed | undefined = { _id: '', settings: '' }
  while (last !== undefined) {
    const found: Sealed[] = await sealedAfter(context, last._id, pageSize)
    await reencrypt(context, found)
    last = found.length === pageSize ? found.at(-1) : undefined
  }
}

function endpointsAfter(
  context: MongoContext,
  name: string,
  pageSize: number,
): Promise<EndpointDocument[]> {
  return run(startDeadline(), (limit) =>
    context.endpoints
      .find(
        { _id: { $gt: name } },
        { sort: { _id: 1 }, limit: pageSize, batchSize: pageSize + 1, ...limit },
      )
      .toArray(),
  )
}

async function reencryptEndpoint(
  { box, endpoints, clock, settings }: MongoContext,
  endpoint: EndpointDocument,
): Promise<void> {
  const { _id, version, headers } = endpoint
  const secrets = validSecrets(endpoint, clock.now())
  const sealed = [headers, ...secrets.map((secret) => secret.sealed)]
  const plain = sealed.map((text) => box.open(text, _id))
  if (settings.reencrypts === false || sealed.every(box.isCurrent)) return
  const [newHeaders = headers, ...newSecrets] = plain.map((text) => box.seal(text, _id))
  const reencrypted = secrets.map(({ until }, i) => ({ sealed: newSecrets[i] ?? '', until }))
  // No client changed the endpoint, so its version stays.
  await run(startDeadline(), (limit) =>
    endpoints.updateOne(
      { _id, version, headers },
      { $set: { headers: newHeaders, secrets: reencrypted } },
      limit,
    ),
  )
}

function sealedAfter(context: MongoContext, name: string, pageSize: number): Promise<Sealed[]> {
  return run(startDeadline(), (limit) =>
    schedulesIn(context)
      .find<Sealed>(
        { _id: { $gt: name } },
        {
          projection: { settings: 1 },
          sort: { _id: 1 },
          limit: pageSize,
          batchSize: pageSize + 1,
          ...limit,
        },
      )
      .toArray(),
  )
}

async function reencrypt(context: MongoContext, found: Sealed[]) {
  const { box, undecryptable } = context
  const operations = found.flatMap(({ _id, settings }) => {
    if (box.isCurrent(settings)) return []
    const plain = undecryptable.tryDecrypt(_id, () => box.open(settings, _id))
    if (plain === null) return []
    // The guard: the settings are still those that were decrypted.
    const update = { $set: { settings: box.seal(plain, _id) } }
    return [{ updateOne: { filter: { _id, settings }, update } }]
  })
  if (operations.length === 0) return
  await run(startDeadline(), (limit) =>
    schedulesIn(context).bulkWrite(operations, { ordered: false, ...limit }),
  )
}
