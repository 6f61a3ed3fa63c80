// The `webhooks` section of openapi.json: the two requests that Posthorn sends to an endpoint,
// and the meanings of the responses.

import { DELIVERY_HEADERS, type SentWith } from '../../src/webhook/delivery-headers.ts'
import { STATUS_MEANINGS } from '../../src/webhook/outcome.ts'
import { PING_BODY } from '../../src/webhook/request.ts'

type Json = Record<string, unknown>

/** Every delivery has these headers; the others are in some. */
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
          200: {
            description: 'the job has succeeded, as with any other 2xx; the body is its result',
          },
          202: {
            description:
              'of an endpoint with `completion: async`: the handler reports later; else as 200',
          },
          ...Object.fromEntries(
            STATUS_MEANINGS.rejected.map((status) => [
              status,
              { description: 'the job is dead; 410 also disables the endpoint' },
            ]),
          ),
          429: {
            description: 'throttled: retried later, uses no attempt',
            headers: responseHeaders('retry-after', 'posthorn-throttle-scope'),
          },
          503: {
            description: 'with `Retry-After` as 429, without it retried',
            headers: responseHeaders('retry-after', 'posthorn-no-retry', 'posthorn-throttle-scope'),
          },
          default: {
            description: 'retried, as `retry` of the endpoint says',
            headers: responseHeaders('retry-after', 'posthorn-no-retry'),
          },
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
          200: { description: 'the ping has succeeded, as with any other 2xx' },
          default: { description: 'POST /endpoints/{name}/test returns the outcome' },
        },
      },
    },
  }
}

/** Headers of a response that Posthorn reads. */
const RESPONSE_HEADERS = {
  'retry-after': 'seconds or a date: no attempt before it; at most 24 h are respected',
  'posthorn-no-retry': '`true`: the job is dead, whatever the status',
  'posthorn-throttle-scope':
    '`key`: the fairness key of the job alone is throttled, and not the endpoint',
} as const

function responseHeaders(...names: (keyof typeof RESPONSE_HEADERS)[]): Json {
  return Object.fromEntries(
    names.map((name) => [
      name,
      { description: RESPONSE_HEADERS[name], schema: { type: 'string' } },
    ]),
  )
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
      // OpenAPI describes these headers in another way, and ignores parameters with these names.
      .filter(({ name }) => name !== 'content-type')
  )
}
