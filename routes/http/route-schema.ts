// The parts of a route in addition to its handler: its schema and how it is validated, its errors,
// its headers, and responses that are not JSON of a schema. pages/openapi.ts describes the API from
// them.
import type { FastifySchemaCompiler } from 'fastify'
import { z } from 'zod'
import type { ErrorCode } from '../../src/errors.ts'
import { invalidRequest } from '../../src/wire/field-errors.ts'
import { endpointName } from '../../src/wire/fields.ts'

declare module 'fastify' {
  interface FastifySchema {
    /** Errors in addition to those that follow from the schema (pages/openapi.ts). */
    errors?: readonly RouteError[]
    /** Headers of responses by status, in addition to x-request-id, which every response has. */
    responseHeaders?: Record<number, readonly HeaderName[]>
  }
}

/** An error code, or a code with the status that it has here. */
export type RouteError = ErrorCode | { code: ErrorCode; status: number }

/** The request is valid except for the name of an endpoint in its body. */
export const UNKNOWN_LIMIT = { code: 'limit_not_found', status: 422 } as const
export const UNKNOWN_ENDPOINT = { code: 'endpoint_not_found', status: 422 } as const

/** Errors of every route that enqueues one job. */
export const ENQUEUE_ERRORS: readonly RouteError[] = [
  'endpoint_disabled',
  'dedupe_conflict',
  'idempotency_key_reused',
  'group_closed',
  'group_full',
  'group_open',
  UNKNOWN_ENDPOINT,
  { code: 'group_not_found', status: 422 },
  'overloaded',
]

/** The headers of responses that openapi.json describes. */
export const HEADERS = {
  'x-request-id': 'from the request, or generated; it is also in the log',
  etag: 'the version, for If-Match and If-None-Match',
  location: 'the path of the job or the group',
  'preference-applied': 'the preference of the request that was applied; absent: none was',
  vary: 'Prefer, because that header of the request changes the response',
  'retry-after': 'seconds to wait before the next try',
  'www-authenticate': 'always Bearer',
} as const
export type HeaderName = keyof typeof HEADERS
/** The others are always sent where they are described. */
export const OPTIONAL_HEADERS: readonly HeaderName[] = ['preference-applied']

/** The content type of JSON that a route has serialized itself. */
export const JSON_TYPE = 'application/json; charset=utf-8'

export const problemResponse = z.object({
  type: z.string(),
  title: z.string(),
  status: z.int(),
  code: z.string(),
  detail: z.string(),
  requestId: z.string(),
  errors: z.array(z.object({ path: z.string(), message: z.string() })).optional(),
})

/** A response by content type, in Fastify's form. */
export interface ContentResponse {
  description: string
  content: Record<string, { schema: z.ZodType }>
}

/** A response without a body. */
export interface EmptyResponse {
  description: string
  type: 'null'
}

export function jsonResponse(description: string, schema: z.ZodType): ContentResponse {
  return { description, content: { 'application/json': { schema } } }
}

export function emptyResponse(description: string): EmptyResponse {
  return { description, type: 'null' }
}

export const nameParams = z.object({ name: endpointName })

export const noQuery = z.strictObject({})
/** The body of a route that needs none: absent, or an empty object. */
export const noBody = z.strictObject({}).nullish()

/** The parts of a request by Fastify's names, and the prefix of paths into each. */
const PATH_PREFIXES: Record<string, string> = {
  body: '',
  querystring: 'query',
  headers: 'header',
  params: 'path',
}

export const validatorCompiler: FastifySchemaCompiler<z.ZodType> = ({ schema, httpPart }) => {
  const prefix = PATH_PREFIXES[httpPart ?? 'body'] ?? ''
  return (data: unknown) => {
    const checked = schema.safeParse(data)
    if (checked.success) return { value: checked.data }
    return { error: invalidRequest(checked.error, prefix) }
  }
}
