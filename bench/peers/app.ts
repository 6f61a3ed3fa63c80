// The Fastify application in front of a peer's queue, with the parser and schemas of Fastify, as
// its users would write it. Responds with 201 and the id of the job.
import Fastify from 'fastify'
import { ENDPOINT } from '../load.ts'

const schema = {
  body: {
    type: 'object',
    required: ['endpoint', 'payload'],
    properties: { endpoint: { const: ENDPOINT }, payload: { type: 'object' } },
  },
  response: { 201: { type: 'object', properties: { id: { type: 'string' } } } },
}

/** @param add stores the job; resolves with its id when it is as durable as the peer makes it */
export async function serve(add: (payload: object) => Promise<string>): Promise<void> {
  const app = Fastify({ logger: false })
  app.post<{ Body: { payload: object } }>('/jobs', { schema }, async (request, reply) => {
    reply.code(201)
    return { id: await add(request.body.payload) }
  })
  process.once('disconnect', () => process.exit(0))
  process.send?.({ url: await app.listen({ host: '127.0.0.1', port: 0 }) })
}
