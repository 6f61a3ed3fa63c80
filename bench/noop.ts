// A Fastify application that stores nothing: the same route and schema, and a response of the same
// length, also if the request prefers a minimal one.
import Fastify from 'fastify'
import { validatorCompiler } from '../routes/http/route-schema.ts'
import { newJobId } from '../src/job/job-id.ts'
import { parseEnvelope, type RawJson } from '../src/wire/envelope.ts'
import { jobBody } from '../src/wire/jobs.ts'
import { MINIMAL } from './load.ts'

const app = Fastify({ logger: false })
app.removeAllContentTypeParsers()
app.addContentTypeParser<Buffer>(
  'application/json',
  { parseAs: 'buffer' },
  async (_: unknown, body: Buffer) => parseEnvelope(body),
)
app.setValidatorCompiler(validatorCompiler as never)
app.post<{ Body: { payload: RawJson } }>(
  '/jobs',
  { schema: { body: jobBody } },
  async (request, reply) => {
    const now = new Date().toISOString()
    reply.code(201).type('application/json')
    if (request.headers.prefer === MINIMAL) {
      reply.headers({ vary: 'Prefer', 'preference-applied': MINIMAL })
      return JSON.stringify({ id: newJobId(Date.now()), state: 'queued' })
    }
    const head = JSON.stringify({
      id: newJobId(Date.now()),
      createdAt: now,
      filler: 'x'.repeat(500),
    })
    return `${head.slice(0, -1)},"payload":${request.body.payload.bytes.toString()}}`
  },
)
process.send?.({ url: await app.listen({ host: '127.0.0.1', port: 0 }) })
process.once('disconnect', () => process.exit(0))
