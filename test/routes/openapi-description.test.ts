import { Ajv2020 } from 'ajv/dist/2020.js'
import addFormats from 'ajv-formats'
import { beforeAll, describe, expect, it } from 'vitest'
import { FIELD_MEANINGS } from '../../routes/pages/field-meanings.ts'
import { ERRORS } from '../../src/errors.ts'
import { DELIVERY_HEADERS } from '../../src/webhook/delivery-headers.ts'
import { useServedApp } from '../support/served-app.ts'

// biome-ignore lint/suspicious/noExplicitAny: a document read as JSON
type Json = any

let document: Json
const served = useServedApp()
beforeAll(async () => {
  document = await (await fetch(`${served.url}/openapi.json`)).json()
})

interface Operation {
  /** For example `GET /jobs/{id}`. */
  name: string
  operation: Json
}

function operations(): Operation[] {
  return Object.entries<Json>(document.paths).flatMap(([path, methods]) =>
    Object.entries<Json>(methods).map(([method, operation]) => ({
      name: `${method.toUpperCase()} ${path}`,
      operation,
    })),
  )
}

const braced = (route: string) => route.replaceAll(/:([a-z]+)/g, '{$1}')

/** The routes that the router prints: a tree in which each level is indented by four columns. */
function servedRoutes(): string[] {
  const parents: string[] = []
  return served.app
    .printRoutes({ commonPrefix: false })
    .split('\n')
    .flatMap((line) => {
      const [, indent, path, methods] = /^([│ ]*)[├└]── (\S*) \((.+)\)$/.exec(line) ?? []
      if (indent === undefined || path === undefined || methods === undefined) return []
      const level = indent.length / 4
      parents[level] = (level === 0 ? '' : parents[level - 1]) + path
      const url = parents[level] as string
      return methods.split(', ').map((method) => `${method} ${url}`)
    })
    .filter((route) => !route.startsWith('HEAD ') && !PAGE_FILE.test(route))
}

/** The files of a page are not part of the API. */
const PAGE_FILE = /^GET \/(docs|dashboard)\/:file$/

describe('openapi.json', () => {
  it('describes every route that is served, and no other', () => {
    const described = operations().map(({ name }) => name)
    expect(described.sort()).toEqual(servedRoutes().map(braced).sort())
    expect(described.length).toBeGreaterThan(10)
  })

  it('gives each operation a summary, a tag and an id of its own', () => {
    const ids = operations().map(({ operation }) => operation.operationId)
    expect(new Set(ids).size).toBe(ids.length)
    for (const { name, operation } of operations()) {
      expect([name, operation.summary]).toEqual([name, expect.stringMatching(/^[A-Z].{5,}$/)])
      expect([name, operation.tags]).toEqual([name, [expect.stringMatching(/^[a-z]+$/)]])
      expect([name, operation.operationId]).toEqual([
        name,
        expect.stringMatching(/^[a-z][A-Za-z]+$/),
      ])
    }
  })

  it('names for each operation a success with its body, or says that there is none', () => {
    for (const { name, operation } of operations()) {
      const successes = Object.keys(operation.responses).filter((status) => /^[23]/.test(status))
      expect([name, successes.length > 0]).toEqual([name, true])
      for (const status of successes) {
        const { content, description } = operation.responses[status]
        const hasNoBody = status === '204' || status === '304'
        expect([name, status, content === undefined]).toEqual([name, status, hasNoBody])
        expect([name, description]).not.toEqual([name, 'Default Response'])
      }
    }
  })

  it('gives every error as application/problem+json, with the codes it may have', () => {
    for (const { name, operation } of operations()) {
      for (const [status, response] of Object.entries<Json>(operation.responses)) {
        if (!/^[45]|default/.test(status) || name === 'GET /health/ready') continue
        expect([name, status, Object.keys(response.content)]).toEqual([
          name,
          status,
          ['application/problem+json'],
        ])
        const codes = [...response.description.matchAll(/`([a-z_]+)`/g)].map((match) => match[1])
        expect([name, status, codes.length > 0 || status === 'default']).toEqual([
          name,
          status,
          true,
        ])
        for (const code of codes) expect(Object.keys(ERRORS)).toContain(code)
      }
    }
  })

  it('describes the responses to a request without a key, and to one that is wrong', () => {
    for (const { name, operation } of operations()) {
      const statuses = Object.keys(operation.responses)
      const isOpen = operation.security?.length === 0
      expect([name, statuses]).toEqual([name, expect.arrayContaining(['400', '403', '500'])])
      if (!isOpen) expect([name, statuses]).toEqual([name, expect.arrayContaining(['401', '503'])])
      if (operation.requestBody !== undefined)
        expect([name, statuses]).toEqual([name, expect.arrayContaining(['413', '415'])])
    }
  })

  it('says of each response which headers come with it', () => {
    for (const { name, operation } of operations()) {
      for (const [status, response] of Object.entries<Json>(operation.responses)) {
        const headers = Object.keys(response.headers)
        expect([name, headers]).toEqual([name, expect.arrayContaining(['x-request-id'])])
        if (status === '401') expect(headers).toContain('www-authenticate')
        if (status === '503') expect(headers).toContain('retry-after')
        if (status === '304') expect(headers).toContain('etag')
      }
    }
    expect(Object.keys(document.paths['/jobs'].post.responses['201'].headers)).toContain('location')
  })

  it('describes what an endpoint is sent: each header of a delivery and of a test ping', () => {
    const { delivery, testPing } = document.webhooks
    const required = (operation: Json) =>
      operation.parameters
        .filter((one: Json) => one.in === 'header' && one.required)
        .map((one: Json) => one.name)
    expect(required(delivery.post)).toEqual(
      expect.arrayContaining(['webhook-id', 'webhook-signature', 'posthorn-deadline']),
    )
    expect(required(delivery.post)).not.toContain('posthorn-test')
    expect(required(testPing.post)).toEqual(
      expect.arrayContaining(['webhook-id', 'posthorn-test', 'posthorn-deadline']),
    )
    const named = [...delivery.post.parameters, ...testPing.post.parameters].map(
      (one: Json) => one.name,
    )
    expect(new Set(named)).toEqual(
      new Set(Object.keys(DELIVERY_HEADERS).filter((name) => name !== 'content-type')),
    )
    const { schema } = testPing.post.requestBody.content['application/json']
    expect(schema.properties.type.const).toBe('posthorn.test')
  })

  it('describes every field and every parameter', () => {
    const missing = operations().flatMap(({ name, operation }) => {
      const parameters: Json[] = operation.parameters ?? []
      const unclear = parameters.filter(({ description }) => !description)
      return [...unclear.map((one) => `${name} ${one.name}`), ...undescribed(operation, name)]
    })
    const { schemas } = document.components
    missing.push(...Object.keys(schemas).flatMap((name) => undescribed(schemas[name], name)))
    expect(missing).toEqual([])
    const text = JSON.stringify(document)
    const unused = Object.values(FIELD_MEANINGS).filter(
      (meaning) => !text.includes(JSON.stringify(meaning).slice(1, -1)),
    )
    expect(unused).toEqual([])
  })

  it('asks for a body only where one is needed', () => {
    const needsBody = (path: string) => document.paths[path].post.requestBody.required
    expect(needsBody('/jobs')).toBe(true)
    expect(needsBody('/jobs/{id}/cancel')).toBe(false)
  })

  it('names a server, and no file of a page among the routes', () => {
    expect(document.servers).toEqual([{ url: '/', description: expect.any(String) }])
    expect(Object.keys(document.paths).filter((path) => path.includes('{file}'))).toEqual([])
    // These files are served nevertheless.
    expect(served.app.hasRoute({ method: 'GET', url: '/dashboard/:file' })).toBe(true)
  })

  it('has no component that nothing refers to', () => {
    const { components, ...rest } = document
    const names = (['schemas', 'headers'] as const).flatMap((kind) =>
      Object.keys(components[kind]).map((name) => ({ kind, name })),
    )
    const unused = names.filter(({ kind, name }) => {
      const others = { ...components.schemas, ...(kind === 'schemas' ? { [name]: null } : {}) }
      return !JSON.stringify([rest, others]).includes(`"#/components/${kind}/${name}"`)
    })
    expect(unused).toEqual([])
    expect(names.length).toBeGreaterThan(15)
  })

  it('gives no object as a default, for which generators leave out an operation', () => {
    const defaults = schemasWithin(document.paths).flatMap((schema) => defaultsIn(schema))
    expect(defaults.length).toBeGreaterThan(20)
    expect(defaults.filter((value) => typeof value === 'object' && !Array.isArray(value))).toEqual([
      // null is allowed: some fields have it as their default.
      ...defaults.filter((value) => value === null),
    ])
    const { schema } =
      document.paths['/endpoints/{name}'].put.requestBody.content['application/json']
    expect(schema.properties.circuitBreaker.description).toContain('default: 20 failures')
  })

  it('is OpenAPI 3.1 whose references lead somewhere and whose schemas are JSON Schema', () => {
    expect(document.openapi).toMatch(/^3\.1\./)
    const ajv = new Ajv2020({ strict: false })
    addFormats.default(ajv)
    ajv.addSchema(document, 'openapi')
    const references = JSON.stringify(document).matchAll(/"\$ref":"#\/components\/(\w+)\/([^"]+)"/g)
    for (const [, kind, name] of references)
      expect(document.components[kind as string]).toHaveProperty([name as string])
    for (const name of Object.keys(document.components.schemas))
      ajv.compile({ $ref: `openapi#/components/schemas/${name}` })
    for (const schema of schemasWithin(document.paths)) {
      expect([ajv.validateSchema(schema), ajv.errorsText()]).toEqual([true, 'No errors'])
    }
  })
})

function undescribed(node: Json, path: string): string[] {
  if (typeof node !== 'object' || node === null) return []
  const own = Object.entries<Json>(node.properties ?? {}).flatMap(([name, field]) =>
    field.$ref === undefined && !field.description ? [`${path}.${name}`] : [],
  )
  return [...own, ...Object.keys(node).flatMap((key) => undescribed(node[key], `${path}.${key}`))]
}

function schemasWithin(node: Json): Json[] {
  if (typeof node !== 'object' || node === null) return []
  const own = !Array.isArray(node) && 'schema' in node ? [node.schema] : []
  return [...own, ...Object.values(node).flatMap(schemasWithin)]
}

/** The defaults of a schema and of all schemas in it. */
function defaultsIn(node: Json): Json[] {
  if (typeof node !== 'object' || node === null) return []
  const isSchema = !Array.isArray(node) && ['type', 'anyOf', 'oneOf'].some((key) => key in node)
  const own = isSchema && 'default' in node ? [node.default] : []
  return [...own, ...Object.values(node).flatMap(defaultsIn)]
}
