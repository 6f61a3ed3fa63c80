// At the start: what another key than the first one encrypted is encrypted with the first, so that
// the others can be removed from ENCRYPTION_KEY one day without any endpoint or schedule being
// lost.
import { type MongoContext, run, startDeadline } from './connection.ts'
import { type EndpointDocument, validSecrets } from './endpoint-document.ts'
import { type ScheduleDocument, schedulesIn } from './schedules.ts'

const PAGE = 500
/** Those beyond are sealed anew when they are put or their secret is rotated. */
const MAX_PAGES = 20

/** Read, and sealed, in one go. */
const SCHEDULES_AT_ONCE = 200

type Sealed = Pick<ScheduleDocument, '_id' | 'settings'>

/** Throws StoreUnusable when no key opens what is stored: that is to show at the start, not later. */
export async function sealAnew(context: MongoContext): Promise<void> {
  const current = keyIdOf(context.box.seal('', ''))
  let after = ''
  for (let page = 0; page < MAX_PAGES; page++) {
    const found = await run(startDeadline(), (limit) =>
      context.endpoints
        .find({ _id: { $gt: after } }, { sort: { _id: 1 }, limit: PAGE, batchSize: PAGE, ...limit })
        .toArray(),
    )
    for (const endpoint of found) await sealOneAnew(context, endpoint, current)
    if (found.length < PAGE) return
    after = found.at(-1)?._id ?? ''
  }
}

export async function resealSchedules(context: MongoContext): Promise<void> {
  let last: Sealed | undefined = { _id: '', settings: '' }
  while (last !== undefined) {
    const found: Sealed[] = await sealedAfter(context, last._id)
    await reseal(context, found)
    last = found.length === SCHEDULES_AT_ONCE ? found.at(-1) : undefined
  }
}

async function sealOneAnew(
  { box, endpoints, clock }: MongoContext,
  endpoint: EndpointDocument,
  current: string,
): Promise<void> {
  const { _id, version, headers } = endpoint
  const secrets = validSecrets(endpoint, clock.now())
  const sealed = [headers, ...secrets.map((secret) => secret.sealed)]
  const plain = sealed.map((text) => box.open(text, _id))
  if (sealed.every((text) => keyIdOf(text) === current)) return
  const [newHeaders = headers, ...newSecrets] = plain.map((text) => box.seal(text, _id))
  const resealed = secrets.map(({ until }, i) => ({ sealed: newSecrets[i] ?? '', until }))
  // Not a change that people made: the version stays.
  await run(startDeadline(), (limit) =>
    endpoints.updateOne(
      { _id, version, headers },
      { $set: { headers: newHeaders, secrets: resealed } },
      limit,
    ),
  )
}

/** `v1.<key id>.<base64>`, as src/store/secret-box.ts writes it. */
function keyIdOf(sealed: string): string {
  return sealed.split('.')[1] ?? ''
}

function sealedAfter(context: MongoContext, name: string): Promise<Sealed[]> {
  return run(startDeadline(), (limit) =>
    schedulesIn(context)
      .find<Sealed>(
        { _id: { $gt: name } },
        {
          projection: { settings: 1 },
          sort: { _id: 1 },
          limit: SCHEDULES_AT_ONCE,
          batchSize: SCHEDULES_AT_ONCE + 1,
          ...limit,
        },
      )
      .toArray(),
  )
}

async function reseal(context: MongoContext, found: Sealed[]) {
  const { box, unreadable } = context
  const operations = found.flatMap(({ _id, settings }) => {
    if (box.isCurrent(settings)) return []
    const plain = unreadable.openOrNote(_id, () => box.open(settings, _id))
    if (plain === null) return []
    // The guard: what was opened is what is stored.
    const update = { $set: { settings: box.seal(plain, _id) } }
    return [{ updateOne: { filter: { _id, settings }, update } }]
  })
  if (operations.length === 0) return
  await run(startDeadline(), (limit) =>
    schedulesIn(context).bulkWrite(operations, { ordered: false, ...limit }),
  )
}
