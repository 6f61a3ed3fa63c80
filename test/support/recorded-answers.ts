// Compares every answer that a test gets with the description of its route in openapi.json.
import { readFileSync } from 'node:fs'
import type { IncomingMessage, Server, ServerResponse } from 'node:http'
import { join } from 'node:path'
import { Ajv2020, type ValidateFunction } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'

export interface RecordedAnswer {
  method: string
  /** With or without a query. */
  path: string
  status: number
  /** Names in lower case. */
  headers: Record<string, string>
  body: string
}

export interface AnswerCheck {
  /** What of this answer is not described: one sentence each. */
  problemsOf(answer: RecordedAnswer): string[]
}

// biome-ignore lint/suspicious/noExplicitAny: a document read as JSON
type Json = any

/** Headers that mean something in this API: one that is sent must be described. */
const MEANT = ['etag', 'location', 'retry-after', 'allow', 'www-authenticate', 'cache-control']
/** What a page is made of is served, and is no part of the API that is described. */
const PAGE_FILE = /^\/(docs|dashboard)\/[^/]+$/
const PROBLEM_TYPE = 'application/problem+json'

const OPENAPI = join(import.meta.dirname, '../../openapi/openapi.json')
let described: { document: Json; check: AnswerCheck } | null = null

/**
 * openapi.json as it is committed, and the check of answers by it. To ask an API that just started
 * takes it half a second; test/freshness.test.ts shows that it would give the same.
 */
export function describedApi(): { document: Json; check: AnswerCheck } {
  if (described === null) {
    const document = JSON.parse(readFileSync(OPENAPI, 'utf8'))
    described = { document, check: createAnswerCheck(document) }
  }
  return described
}

/** @param document openapi.json, parsed */
export function createAnswerCheck(document: Json): AnswerCheck {
  const strict = withoutFurtherFields(document)
  const ajv = new Ajv2020({ strict: false, allErrors: false })
  addFormats.default(ajv)
  ajv.addSchema(strict, 'openapi')
  const validators = new Map<string, ValidateFunction>()
  const shapes = Object.keys(document.paths)
    .map((template) => ({ template, shape: shapeOf(template) }))
    // `/jobs/batch` before `/jobs/{id}`.
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
      // What Fastify refuses before a route is known to it: 408, 431.
      const isUndescribed = status === 'default' && ![408, 431].includes(answer.status)
      return [
        ...(isUndescribed ? ['this status is not described'] : []),
        ...headerProblems(response.headers ?? {}, answer),
        ...bodyProblems(pointer, response.content, answer),
      ].map((problem) => where + problem)
    },
  }
}

/** A path or method that no route takes is answered by a problem all the same. */
function unroutedProblems({ status, headers }: RecordedAnswer): string[] {
  const isProblem = headers['content-type']?.startsWith(PROBLEM_TYPE) && status >= 400
  return [
    ...(isProblem ? [] : ['no route is described, and it is no problem']),
    ...(status === 405 && headers.allow === undefined ? ['without Allow'] : []),
  ]
}

function headerProblems(described: Json, { headers }: RecordedAnswer): string[] {
  // What every answer has unless it may be kept.
  const isKept = headers['cache-control'] !== 'no-store'
  const undescribed = MEANT.filter(
    (name) => name in headers && !(name in described) && (isKept || name !== 'cache-control'),
  )
  const missing = Object.keys(described).filter((name) => !(name in headers))
  return [
    ...undescribed.map((name) => `the header ${name} is not described`),
    ...missing.map((name) => `the header ${name} is described, and missing`),
  ]
}

/** A field that is not described is an error here, though clients are to let it pass. */
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

/** Calls `onAnswer` with every answer of this server, just before its last byte leaves. */
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
    // Headers that are given to writeHead alone are not among getHeaders().
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
