// A handler in TypeScript: accepts only signed deliveries, and does the work of a job once.
import { createServer } from 'node:http'
// In a project of your own: install the package (docs/client.md), import from 'posthorn/client'.
import { type Delivery, VerificationError, verify } from '../../../src/client/client.ts'

const secret = process.env.POSTHORN_SECRET ?? ''
// In memory, for the example. Store yours in the database of the work, in the same transaction.
const done = new Map<string, { fence: number; result: object }>()

function doOnce({ jobId, fence, payload }: Delivery<{ invoice: number }>) {
  const before = done.get(jobId)
  if (before && fence < before.fence)
    return { status: 409, body: { error: 'a newer attempt has begun' } }
  const result = before?.result ?? makePdf(payload.invoice)
  done.set(jobId, { fence, result })
  return { status: 200, body: result }
}

function makePdf(invoice: number): object {
  console.log(`makes the PDF of invoice ${invoice}`)
  return { invoice, pages: 3 }
}

const server = createServer(async (request, response) => {
  const reply = await verify<{ invoice: number }>(request, secret)
    .then((delivery) => (delivery.isTest ? { status: 200, body: {} } : doOnce(delivery)))
    .catch((error) => {
      if (!(error instanceof VerificationError)) console.error(error)
      const code = error instanceof VerificationError ? error.code : 'internal_error'
      const refused = code === 'body_too_large' ? 413 : 401
      return { status: code === 'internal_error' ? 500 : refused, body: { error: code } }
    })
  response.writeHead(reply.status, { 'content-type': 'application/json' })
  response.end(JSON.stringify(reply.body))
})
server.listen(Number(process.env.PORT ?? 3000), '127.0.0.1', () => {
  console.log('listening on port', (server.address() as { port: number }).port)
})
