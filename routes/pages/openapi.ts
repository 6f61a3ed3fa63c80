// GET /openapi.json, generated from the schemas of the routes. http/route-schema.ts describes the
// parts of a route that its schema does not contain: errors, headers, responses without JSON.
import { isDeepStrictEqual } from 'node:util'
import type { FastifyDynamicSwaggerOptions } from '@fastify/swagger'
import type { FastifyInstance, FastifySchema, RouteOptions } from 'fastify'
import { z } from 'zod'
import { ERRORS, type ErrorCode } from '../../src/errors.ts'
import { PROBLEM_TYPE } from '../../src/http/problem.ts'
import {
  endpointListResponse,
  endpointResponse,
  listedEndpointResponse,
} from '../../src/wire/endpoints.ts'
import { fairnessKeyListResponse, fairnessKeyResponse } from '../../src/wire/fairness-keys.ts'
import { groupListResponse, groupResponse, listedGroupResponse } from '../../src/wire/groups.ts'
import {
  jobListResponse,
  jobResponse,
  jobSummaryResponse,
  minimalJobResponse,
  retriedJobResponse,
} from '../../src/wire/jobs.ts'
import { limitListResponse, limitResponse, listedLimitResponse } from '../../src/wire/limits.ts'
import { scheduleListResponse, scheduleResponse } from '../../src/wire/schedules.ts'
import { testResponse } from '../endpoints/commands.ts'
import {
  type ContentResponse,
  type EmptyResponse,
  HEADERS,
  type HeaderName,
  JSON_TYPE,
  jsonResponse,
  noQuery,
  OPTIONAL_HEADERS,
  problemResponse,
  type RouteError,
} from '../http/route-schema.ts'
import { batchResponse } from '../jobs/batch.ts'
import { bulkResponse } from '../jobs/bulk.ts'
import { appliedResponse, heartbeatResponse } from '../jobs/completion.ts'
import { explainResponse } from '../jobs/explain.ts'
import { claimResponse } from '../jobs/pull.ts'
import { keyListResponse, keyResponse, newKeyResponse } from '../service/keys.ts'
import { statsResponse } from '../service/stats.ts'
import { workerListResponse } from '../service/workers.ts'
import { describedField, withMeanings } from './field-meanings.ts'
import { webhooksSection } from './openapi-webhooks.ts'

type Json = Record<string, unknown>

/** The parts of a route's schema that zod checks, and its responses. */
interface RouteSchema {
  summary?: string
  security?: Json[]
  params?: z.ZodType
  querystring?: z.ZodType
  headers?: z.ZodType
  body?: z.ZodType
  response?: Record<string, z.ZodType | ContentResponse | EmptyResponse>
  errors?: readonly RouteError[]
  responseHeaders?: Record<number, readonly HeaderName[]>
}

export function registerOpenapiRoute(app: FastifyInstance): void {
  let document: Buffer | null = null
  app.get(
    '/openapi.json',
    {
      config: { open: true },
      schema: {
        summary: 'The description of this API as OpenAPI 3.1',
        querystring: noQuery,
        response: { 200: jsonResponse('this document', z.looseObject({})) },
      },
    },
    async (_request, reply) => {
      // The document is generated once, because it can be requested without a key.
      document ??= Buffer.from(JSON.stringify(app.swagger()))
      return reply.type(JSON_TYPE).send(document)
    },
  )
}

/** Options of the plugin, which must be registered before the routes. */
export function openapiOptions(version: string): FastifyDynamicSwaggerOptions {
  return {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Posthorn',
        description:
          'A job queue over HTTP: post a job, it calls your webhook until the work is done.',
        version,
        license: { name: 'MIT', identifier: 'MIT' },
      },
      // This URL means the server that sent the document.
      servers: [{ url: '/', description: 'the server that serves this description' }],
      components: {
        securitySchemes: { key: { type: 'http', scheme: 'bearer' } },
      },
      // A request has a key, or none in local mode.
      security: [{ key: [] }, {}],
    },
    transform: ({ schema, url, route }) => ({
      schema: described((schema ?? {}) as RouteSchema, route),
      url,
    }),
    transformObject: (document) =>
      'openapiObject' in document ? finished(document.openapiObject) : {},
  }
}

/** A route's schema as JSON Schema, with all its responses. */
function described(schema: RouteSchema, route: RouteOptions): FastifySchema {
  const { response: _, errors = [], responseHeaders: __, ...rest } = schema
  const parts = Object.entries(rest).map(([part, value]) => [
    part,
    value instanceof z.ZodType ? jsonSchemaOf(value) : value,
  ])
  const method = [route.method].flat()[0] as string
  const isOpen = route.config?.open === true
  return {
    ...Object.fromEntries(parts),
    operationId: operationIdOf(method, route.url),
    tags: [tagOf(route.url)],
    ...(isOpen ? { security: [] } : {}),
    'x-scope': scopeOf(route, errors),
    ...(acceptsNoBody(schema) ? { [OPTIONAL_BODY]: true } : {}),
    response: responsesOf(schema, isOpen),
  } as FastifySchema
}

/** `POST /jobs/:id/cancel` as postJobsByIdCancel: a name that generated clients can use. */
function operationIdOf(method: string, url: string): string {
  const words = url
    .split(/[/.-]/)
    .filter((word) => word !== '')
    .map((word) => (word.startsWith(':') ? `By${capital(word.slice(1))}` : capital(word)))
  return method.toLowerCase() + (words.join('') || 'Root')
}

function capital(word: string): string {
  return word.charAt(0).toUpperCase() + word.slice(1)
}

function tagOf(url: string): string {
  return url.split(/[/.]/)[1] || 'service'
}

/** The authorization of a request: a key with a scope, the token of an attempt, or none. */
function scopeOf({ config }: RouteOptions, errors: readonly RouteError[]): string {
  if (config?.open !== true) return config?.scope ?? 'admin'
  return errors.includes('unauthorized') ? 'token' : 'none'
}

/** The plugin treats every body as required. This mark on optional ones is removed at the end. */
const OPTIONAL_BODY = 'x-optional-body'

function acceptsNoBody({ body }: RouteSchema): boolean {
  return body?.safeParse(undefined).success ?? false
}

function responsesOf(schema: RouteSchema, isOpen: boolean): Json {
  const responses: Json = {}
  for (const [status, response] of Object.entries(schema.response ?? {})) {
    responses[status] = successResponse(
      response,
      headersOf(schema.responseHeaders?.[Number(status)]),
    )
  }
  const byStatus = Map.groupBy(errorsOf(schema, isOpen), ({ status }) => status)
  for (const [status, errors] of byStatus) {
    responses[status] ??= problemResponseOf(
      errors.map(({ code }) => `\`${code}\`: ${ERRORS[code].title}`).join('; '),
      headersOf(HEADERS_OF_ERRORS[status]),
    )
  }
  responses.default = problemResponseOf('a problem (RFC 9457)', headersOf([]))
  return responses
}

const HEADERS_OF_ERRORS: Record<number, HeaderName[]> = {
  401: ['www-authenticate'],
  503: ['retry-after'],
}

function successResponse(
  response: z.ZodType | ContentResponse | EmptyResponse,
  headers: Json,
): Json {
  if (response instanceof z.ZodType)
    return successResponse(jsonResponse('success', response), headers)
  if (!('content' in response)) return { ...response, headers }
  const content = Object.entries(response.content).map(([type, { schema }]) => [
    type,
    { schema: jsonSchemaOf(schema) },
  ])
  return { description: response.description, headers, content: Object.fromEntries(content) }
}

function problemResponseOf(description: string, headers: Json): Json {
  const schema = jsonSchemaOf(problemResponse)
  return { description, headers, content: { [PROBLEM_TYPE]: { schema } } }
}

function headersOf(names: readonly HeaderName[] = []): Json {
  const all: HeaderName[] = ['x-request-id', ...names]
  return Object.fromEntries(all.map((name) => [name, { type: 'string' }]))
}

/** The errors of a route: those that follow from its schema, and its own. */
function errorsOf(schema: RouteSchema, isOpen: boolean): { code: ErrorCode; status: number }[] {
  const hasBody = schema.body !== undefined
  const headerNames = schema.headers === undefined ? [] : propertiesOf(schema.headers)
  const codes: ErrorCode[] = [
    'invalid_request',
    ...(hasBody ? (['invalid_json', 'payload_too_large', 'unsupported_media_type'] as const) : []),
    ...(isOpen ? [] : (['unauthorized'] as const)),
    'forbidden',
    ...(headerNames.includes('if-match') ? (['precondition_failed'] as const) : []),
    'internal_error',
    ...(isOpen && !hasBody ? [] : (['store_unavailable'] as const)),
  ]
  return [...codes, ...(schema.errors ?? [])].map((error) =>
    typeof error === 'string' ? { code: error, status: ERRORS[error].status } : error,
  )
}

function propertiesOf(schema: z.ZodType): string[] {
  return Object.keys(jsonSchemaOf(schema).properties ?? {})
}

/** Completes the document: marks optional bodies, and makes named responses components. */
function finished<T extends object>(document: T): T {
  const text = JSON.parse(JSON.stringify(document)) as Json & { paths: Record<string, Json> }
  for (const operation of Object.values(text.paths).flatMap((path) => Object.values(path))) {
    finishOperation(operation as Json)
  }
  const named = namedResponses()
  const components = text.components as Json
  const paths = withReferences(text.paths, named) as Record<string, Json>
  for (const path of Object.values(paths)) {
    for (const [method, operation] of Object.entries(path)) {
      path[method] = explained(operation as Json)
    }
  }
  // Components refer to each other, too: a list of jobs refers to the job.
  const schemas = Object.fromEntries(
    named.map(([name, schema]) => [name, withMeanings(withReferences(schema, named, true), name)]),
  )
  const described = { ...text, paths, webhooks: webhooksSection() }
  return {
    ...described,
    components: used({ ...components, headers: headerComponents(), schemas }, described),
  } as unknown as T
}

/** Adds the description of each field and parameter. */
function explained(operation: Json): Json {
  const { operationId, parameters } = operation as { operationId: string; parameters?: Json[] }
  const described = withMeanings(operation, operationId) as Json
  if (parameters === undefined) return described
  return {
    ...described,
    parameters: parameters.map((one) => describedField(one, one.name as string, operationId)),
  }
}

/** The components that other parts of the document refer to, other components included. */
function used(components: Json, document: Json): Json {
  const kept: Json = {}
  for (const [kind, all] of Object.entries(components)) {
    if (!['schemas', 'headers'].includes(kind)) {
      kept[kind] = all
      continue
    }
    const names = Object.entries(all as Json).filter(([name]) => {
      const text = JSON.stringify([document, { ...(components.schemas as Json), [name]: null }])
      return text.includes(`"#/components/${kind}/${name}"`)
    })
    kept[kind] = Object.fromEntries(names)
  }
  return kept
}

function finishOperation(operation: Json): void {
  const { [OPTIONAL_BODY]: isOptional, requestBody, responses } = operation
  delete operation[OPTIONAL_BODY]
  if (isOptional === true) operation.requestBody = { ...(requestBody as Json), required: false }
  for (const response of Object.values(responses as Record<string, Json>)) {
    const names = Object.keys((response.headers ?? {}) as Json)
    response.headers = Object.fromEntries(
      names.map((name) => [name, { $ref: `#/components/headers/${name}` }]),
    )
  }
}

function headerComponents(): Json {
  const components = Object.entries(HEADERS).map(([name, description]) => {
    const required = !OPTIONAL_HEADERS.includes(name as HeaderName)
    return [name, { description, required, schema: { type: 'string' } }]
  })
  return Object.fromEntries(components)
}

/** The schemas that become components, if something refers to them. */
export const RESPONSES = {
  appliedResponse,
  batchResponse,
  bulkResponse,
  claimResponse,
  endpointResponse,
  endpointListResponse,
  explainResponse,
  fairnessKeyListResponse,
  fairnessKeyResponse,
  groupListResponse,
  groupResponse,
  limitListResponse,
  limitResponse,
  listedEndpointResponse,
  listedGroupResponse,
  listedLimitResponse,
  heartbeatResponse,
  jobResponse,
  jobListResponse,
  jobSummaryResponse,
  keyResponse,
  keyListResponse,
  minimalJobResponse,
  newKeyResponse,
  problemResponse,
  retriedJobResponse,
  scheduleResponse,
  scheduleListResponse,
  statsResponse,
  testResponse,
  workerListResponse,
}

/**
 * `jobResponse` as Job, `jobListResponse` as JobList, …; sorted, so that the order of imports does
 * not matter.
 */
function namedResponses(): [name: string, schema: Json][] {
  const named = Object.entries(RESPONSES).map(([name, schema]): [string, Json] => [
    capital(name.slice(0, -'Response'.length)),
    asInPaths(jsonSchemaOf(schema)) as Json,
  ])
  return named.sort(([a], [b]) => (a < b ? -1 : 1))
}

/**
 * The plugin writes `const` as an `enum` of one value. Equal schemas are recognized only in the
 * same form.
 */
function asInPaths(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(asInPaths)
  if (typeof node !== 'object' || node === null) return node
  return Object.fromEntries(
    Object.entries(node).map(([key, value]) =>
      key === 'const' ? ['enum', [value]] : [key, asInPaths(value)],
    ),
  )
}

function withReferences(node: unknown, named: [string, Json][], isRoot = false): unknown {
  if (Array.isArray(node)) return node.map((item) => withReferences(item, named))
  if (typeof node !== 'object' || node === null) return node
  const [name] = isRoot ? [] : (named.find(([, schema]) => isDeepStrictEqual(schema, node)) ?? [])
  if (name !== undefined) return { $ref: `#/components/schemas/${name}` }
  return Object.fromEntries(
    Object.entries(node).map(([key, value]) => [key, withReferences(value, named)]),
  )
}

/** The OpenAPI 3.1 form of a zod schema, for input. */
function jsonSchemaOf(schema: z.ZodType): Record<string, unknown> {
  const { $schema, ...json } = z.toJSONSchema(schema, {
    io: 'input',
    unrepresentable: 'any',
    target: 'draft-2020-12',
  })
  return withoutObjectDefaults(json) as Record<string, unknown>
}

/**
 * Generators of clients fail on an object as a default and leave out the whole operation. The
 * description of such a field says what the default is.
 */
function withoutObjectDefaults(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(withoutObjectDefaults)
  if (!isObject(node)) return node
  const { default: byDefault, ...rest } = Object.fromEntries(
    Object.entries(node).map(([key, value]) => [key, withoutObjectDefaults(value)]),
  )
  const isKept = byDefault !== undefined && !(isSchema(rest) && isObject(byDefault))
  return isKept ? { ...rest, default: byDefault } : rest
}

/**
 * Whether the node is a schema. A map of properties is none: one of its properties may be named
 * `default`.
 */
function isSchema(node: Record<string, unknown>): boolean {
  return 'type' in node || 'anyOf' in node || 'oneOf' in node
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
