// At the start: secrets of endpoints that another key than the first one sealed are sealed with the
// first, so that the others can be taken away one day.
import type { MongoContext } from './context.ts'
import { type EndpointDocument, validSecrets } from './endpoint-documents.ts'
import { run, startDeadline } from './run-command.ts'

const PAGE = 500
/** Those beyond are sealed anew when they are put or their secret is rotated. */
const MAX_PAGES = 20

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
