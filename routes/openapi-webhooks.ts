// The `webhooks` section of openapi.json: the two requests that Posthorn sends to an endpoint, and
// what the answers to them mean.

import { DELIVERY_HEADERS, type SentWith } from '../src/webhook/delivery-headers.ts'
import { STATUS_MEANINGS } from '../src/webhook/outcome.ts'
import { PING_BODY } from '../src/webhook/request.ts'

type Json = Record<string, unknown>

/** Each of these is in every delivery; the others are in some. */
const ALWAYS: SentWith[] = ['all', 'jobs']

export function webhooksSection(): Json {
  return {
    delivery: {
      post: {
        operationId: 'deliverJob',
        summary: 'One attempt of a job, sent to the URL of its endpoint',
        tags: ['webhooks'],
        security: [],
        parameters: parametersOf(['all', 'jobs', 'schedules', 'async', 'traces']),
        requestBody: {
          description: 'the payload of the job, byte for byte',
          required: true,
          content: { 'application/json': { schema: {} } },
        },
        responses: {
          200: { description: 'done, as any other 2xx; the body becomes the result of the job' },
          202: {
            description:
              'of an endpoint with `completion: async`: the handler reports later; else done',
          },
          ...Object.fromEntries(
            STATUS_MEANINGS.rejected.map((status) => [
              status,
              { description: 'the job is dead; 410 also disables the endpoint' },
            ]),
          ),
          429: { description: 'throttled: tried again later, and costs no attempt' },
          503: { description: 'with `Retry-After` as 429, without it tried again' },
          default: { description: 'tried again, as `retry` of the endpoint says' },
        },
      },
    },
    testPing: {
      post: {
        operationId: 'sendTestPing',
        summary: 'A test ping, sent by POST /endpoints/{name}/test; it belongs to no job',
        tags: ['webhooks'],
        security: [],
        parameters: parametersOf(['all', 'pings']),
        requestBody: {
          required: true,
          content: {
            'application/json': {
              schema: {
                type: 'object',
                properties: { type: { type: 'string', const: pingType() } },
                required: ['type'],
              },
            },
          },
        },
        responses: {
          200: { description: 'it works, as any other 2xx' },
          default: { description: 'the answer of POST /endpoints/{name}/test says what came' },
        },
      },
    },
  }
}

function pingType(): string {
  return (JSON.parse(PING_BODY.toString()) as { type: string }).type
}

function parametersOf(sentWith: SentWith[]): Json[] {
  return (
    Object.entries(DELIVERY_HEADERS)
      .filter(([, header]) => sentWith.includes(header.sentWith))
      .map(([name, header]) => ({
        name,
        in: 'header',
        required: ALWAYS.includes(header.sentWith) || header.sentWith === 'pings',
        description: header.meaning,
        schema: { type: 'string' },
      }))
      // OpenAPI has these described by other means: a parameter of these names is ignored.
      .filter(({ name }) => name !== 'content-type')
  )
}
