// Compares every response that a test gets with the description of its route in openapi.json.
import { readFileSync } from 'node:fs'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { join } from 'node:path'
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'

export interface RecordedAnswer {
  method: string
  /** The path, with or without a query. */
  path: string
  status: number
  /** Names are in lower case. */
  headers: Record<string, string>
  body: string
}

export interface AnswerCheck {
  /** Returns a sentence for each part of the response that openapi.json does not describe. */
  problemsOf(answer: RecordedAnswer): string[]
}

// biome-ignore lint/suspicious/noExplicitAny: a document read as JSON
type Json = any

/** Headers with a meaning in this API: if one of them is sent, openapi.json must describe it. */
const MEANT = [
  ...['etag', 'location', 'retry-after', 'allow', 'www-authenticate', 'cache-control'],
  'preference-applied',
]
/** The files of a page are served, but are not part of the described API. */
const PAGE_FILE = /^\/(docs|dashboard)\/[^/]+$/
const PROBLEM_TYPE = 'application/problem+json'

const OPENAPI = join(import.meta.dirname, '../../openapi/openapi.json')
let described: { document: Json; check: AnswerCheck } | null = null

/**
 * The committed openapi.json, and the check of responses against it. An API that just started would
 * need half a second to generate it. test/freshness.test.ts shows that both are equal.
 */
export function describedApi(): { document: Json; check: AnswerCheck } {
  if (described === null) {
    const document = JSON.parse(readFileSync(OPENAPI, 'utf8'))
    described = { document, check: createAnswerCheck(document) }
  }
  return described
}

/** @param document the parsed openapi.json */
export function createAnswerCheck(document: Json): AnswerCheck {
  const strict = withoutFurtherFields(document)
  // To optimize the code of a schema takes as long as to make it, and few are used often.
  const code = { optimize: false }
  const ajv = new Ajv2020({ strict: false, allErrors: false, inlineRefs: false, code })
  addFormats.default(ajv)
  ajv.addSchema(strict, 'openapi')
  const validators = new Map<string, ValidateFunction>()
  const shapes = Object.keys(document.paths)
    .map((template) => ({ template, shape: shapeOf(template) }))
    // `/jobs/batch` comes before `/jobs/{id}`.
    .sort((a, b) => a.template.split('{').length - b.template.split('{').length)

  function validatorOf(pointer: string): ValidateFunction {
    const known = validators.get(pointer) ?? ajv.compile({ $ref: `openapi#${pointer}` })
    validators.set(pointer, known)
    return known
  }

  function bodyProblems(pointer: string, content: Json, answer: RecordedAnswer): string[] {
    const type = (answer.headers['content-type'] ?? '').split(';', 1)[0] as string
    if (content === undefined) return answer.body === '' ? [] : ['a body where none is described']
    const described = [type, '*/*'].find((one) => content[one] !== undefined)
    if (described === undefined) return [`content-type ${type || '(none)'} is not described`]
    if (answer.method === 'HEAD' || !/json$/.test(type)) return []
    const validate = validatorOf(`${pointer}/content/${escaped(described)}/schema`)
    return validate(JSON.parse(answer.body))
      ? []
      : [
          `the body: ${ajv.errorsText(validate.errors)} (${JSON.stringify(validate.errors?.[0]?.params)})`,
        ]
  }

  return {
    problemsOf(answer) {
      const path = answer.path.split('?', 1)[0] as string
      const found = shapes.find(({ shape }) => shape.test(path))
      const method = answer.method === 'HEAD' ? 'get' : answer.method.toLowerCase()
      const operation = found === undefined ? undefined : document.paths[found.template][method]
      const where = `${answer.method} ${path} answered ${answer.status}: `
      if (PAGE_FILE.test(path)) return []
      if (operation === undefined) return unroutedProblems(answer).map((problem) => where + problem)
      const status = operation.responses[answer.status] === undefined ? 'default' : answer.status
      const response = operation.responses[status]
      const pointer = `/paths/${escaped(found?.template ?? '')}/${method}/responses/${status}`
      // Fastify refuses some requests before it knows their route: 408, 431.
      const isUndescribed = status === 'default' && ![408, 431].includes(answer.status)
      return [
        ...(isUndescribed ? ['this status is not described'] : []),
        ...headerProblems(response.headers ?? {}, document.components?.headers ?? {}, answer),
        ...bodyProblems(pointer, response.content, answer),
      ].map((problem) => where + problem)
    },
  }
}

/** Even a path or method without a route must get a problem document. */
function unroutedProblems({ status, headers }: RecordedAnswer): string[] {
  const isProblem = headers['content-type']?.startsWith(PROBLEM_TYPE) && status >= 400
  return [
    ...(isProblem ? [] : ['no route is described, and it is no problem']),
    ...(status === 405 && headers.allow === undefined ? ['without Allow'] : []),
  ]
}

/** @param components the headers that the others refer to, by their names */
function headerProblems(described: Json, components: Json, { headers }: RecordedAnswer): string[] {
  // Every response has no-store, unless it may be cached.
  const isKept = headers['cache-control'] !== 'no-store'
  const undescribed = MEANT.filter(
    (name) => name in headers && !(name in described) && (isKept || name !== 'cache-control'),
  )
  const required = Object.keys(described).filter((name) => components[name]?.required !== false)
  const missing = required.filter((name) => !(name in headers))
  return [
    ...undescribed.map((name) => `the header ${name} is not described`),
    ...missing.map((name) => `the header ${name} is described, and missing`),
  ]
}

/** Makes a field that is not described an error. Real clients must ignore such a field. */
function withoutFurtherFields(node: Json): Json {
  if (Array.isArray(node)) return node.map(withoutFurtherFields)
  if (typeof node !== 'object' || node === null) return node
  const inner = Object.fromEntries(
    Object.entries(node).map(([key, value]) => [key, withoutFurtherFields(value)]),
  )
  const isClosed = node.type === 'object' && 'properties' in node
  return isClosed ? { additionalProperties: false, ...inner } : inner
}

function shapeOf(template: string): RegExp {
  const literal = template.replaceAll('.', '\\.')
  return new RegExp(`^${literal.replaceAll(/\{[^}]+\}/g, '[^/]+')}$`)
}

/** JSON Pointer in a URL fragment (RFC 6901, section 6). */
function escaped(step: string): string {
  return encodeURIComponent(step.replaceAll('~', '~0').replaceAll('/', '~1'))
}

/** Calls `onAnswer` with every response of this server, just before its last byte is sent. */
export function recordAnswers(server: Server, onAnswer: (answer: RecordedAnswer) => void): void {
  server.prependListener('request', (request: IncomingMessage, response: ServerResponse) => {
    const chunks: Buffer[] = []
    let written: object = {}
    const keep = (chunk: unknown) => {
      if (typeof chunk === 'string' || chunk instanceof Uint8Array) chunks.push(Buffer.from(chunk))
    }
    const tell = () => {
      const headers = Object.entries({ ...response.getHeaders(), ...written })
      onAnswer({
        method: request.method ?? '',
        path: request.url ?? '',
        status: response.statusCode,
        headers: Object.fromEntries(headers.map(([name, value]) => [name, String(value)])),
        body: request.method === 'HEAD' ? '' : Buffer.concat(chunks).toString(),
      })
    }
    // getHeaders() does not return the headers that only writeHead gets.
    before(response, 'writeHead', (...all) => {
      written = all.find((one) => typeof one === 'object' && one !== null) ?? {}
    })
    before(response, 'write', keep)
    before(response, 'end', (chunk) => {
      keep(chunk)
      tell()
    })
  })
}

function before(
  response: ServerResponse,
  name: 'writeHead' | 'write' | 'end',
  look: (...all: unknown[]) => void,
): void {
  const original = response[name].bind(response) as (...all: unknown[]) => unknown
  response[name] = ((...all: unknown[]) => {
    look(...all)
    return original(...all)
  }) as never
}
