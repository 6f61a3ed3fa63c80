// Every row in the tables of the contract has a test with its name. The rows are those of the code.
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { EXPLAIN_REASONS } from '../../routes/jobs/explain.ts'
import { ERRORS } from '../../src/errors.ts'
import { endpointBody } from '../../src/wire/endpoints.ts'
import { jobBody } from '../../src/wire/jobs.ts'
import { useServedApp } from '../support/served-app.ts'

/** The tables of each test file. A test title begins with the name of its row, then a colon. */
const TABLES = {
  errors: {
    files: /^errors/,
    rows: [...Object.keys(ERRORS), 'X-Request-Id', 'cache-control', 'malformed HTTP'],
  },
  'endpoint fields': {
    files: /^endpoint-fields/,
    rows: [
      'url',
      'description',
      'headers',
      'timeout',
      'retry',
      'concurrency',
      'rateLimit',
      'perKey',
      'limits',
      'completion',
      'completionTimeout',
      'secret',
      'onFinish',
      'circuitBreaker',
      'statuses',
      'read form',
    ],
  },
  'endpoint routes': {
    files: /^endpoint-routes/,
    rows: [
      'PUT /endpoints/:name',
      'PATCH /endpoints/:name',
      'GET /endpoints',
      'GET /endpoints/:name',
      'GET /endpoints/:name/keys',
      'PUT /endpoints/:name/keys/:key',
      'GET /endpoints/:name/keys/:key',
      'DELETE /endpoints/:name/keys/:key',
      'DELETE /endpoints/:name',
      'POST /endpoints/:name/pause',
      'POST /endpoints/:name/resume',
      'POST /endpoints/:name/rotate-secret',
      'POST /endpoints/:name/test',
      'state',
      'a change to an endpoint',
    ],
  },
  'limit routes': {
    files: /^limit-routes/,
    rows: [
      'PUT /limits/:name',
      'GET /limits',
      'GET /limits/:name',
      'DELETE /limits/:name',
      'a limit',
    ],
  },
  'group routes': {
    files: /^group-routes/,
    rows: [
      'POST /groups',
      'GET /groups',
      'GET /groups/:id',
      'POST /groups/:id/close',
      'POST /groups/:id/cancel',
      'POST /groups/:id/retry',
      'DELETE /groups/:id',
      'members',
      'dependents',
    ],
  },
  'job fields': {
    files: /^(job-fields|needs)/,
    rows: [
      'endpoint',
      'payload',
      'runAt or delay',
      'priority',
      'timeout',
      'retry',
      'expiresIn',
      'dedupe',
      'orderingKey',
      'fairnessKey',
      'cost',
      'group',
      'tags',
      'metadata',
      'headers',
      'onFinish',
      'dependsOn',
      'needs',
      'Idempotency-Key',
    ],
  },
  batch: {
    files: /^batch/,
    rows: ['items', 'idempotencyKey', 'payload', 'dependsOn', '1–1,000 jobs', 'dedupe'],
  },
  'job routes': {
    files: /^job-(routes|commands)/,
    rows: [
      'POST /jobs',
      'GET /jobs',
      'GET /jobs/:id',
      'GET /jobs/:id/payload',
      'GET /jobs/:id/inputs',
      'POST /jobs/:id/cancel',
      'POST /jobs/:id/retry',
      'PATCH /jobs/:id',
      'POST /jobs/cancel',
      'POST /jobs/retry',
      'DELETE /jobs/:id',
      'POST /jobs/:id/copy',
      'version',
    ],
  },
  explain: { files: /^explain/, rows: [...EXPLAIN_REASONS] },
  completion: {
    files: /^completion/,
    rows: ['complete', 'fail', 'heartbeat', 'token', 'completionTimeout', '202', '200'],
  },
  pull: {
    files: /^pull/,
    rows: [
      'claim',
      'limit',
      'wait',
      'lease',
      'complete, fail and heartbeat',
      'limits',
      'wrong kind',
    ],
  },
  authentication: {
    files: /^keys/,
    rows: [
      'API_KEYS',
      'POST /keys',
      'GET /keys',
      'DELETE /keys/:id',
      'scopes',
      'PUBLIC_URL',
      'local mode',
    ],
  },
  'the rest': {
    files: /^rest/,
    rows: [
      'GET /',
      'GET /health/live',
      'GET /health/ready',
      'GET /metrics',
      'GET /stats',
      'GET /workers',
      'GET /openapi.json',
      'GET /docs',
    ],
  },
  'what the answer means': {
    files: /^(endpoint-)?answers/,
    rows: [
      '2xx',
      '202 on an async endpoint',
      '3xx',
      '400, 413, 414, 415, 422',
      'posthorn-no-retry',
      '410',
      '429, or 503 with Retry-After',
      'any other status',
      'no connection',
      'name does not resolve',
      'TLS',
      'total deadline passed',
      'address policy',
      'answer is not HTTP, or headers over 16 KiB',
      'lost, interrupted, cancelled',
      'circuit breaker',
    ],
  },
}

/** Routes whose tests have other names, by a pattern of their paths. */
const ELSEWHERE = [
  /\/(complete|fail|heartbeat|explain|claim)$/,
  /^POST \/jobs\/batch$/,
  // Tested in test/routes/schedules.test.ts, test/routes/reference-page.test.ts, test/dashboard/.
  / \/schedules/,
  / \/docs\//,
  / \/dashboard/,
]

const titlesByFile = new Map(
  readdirSync(import.meta.dirname)
    .filter((name) => name.endsWith('.test.ts') && name !== 'rows.test.ts')
    .map((name) => [name, titlesIn(readFileSync(join(import.meta.dirname, name), 'utf8'))]),
)

describe.each(Object.entries(TABLES))('the table of %s', (_, { files, rows }) => {
  const titles = [...titlesByFile].filter(([name]) => files.test(name)).flatMap(([, all]) => all)

  it('has a test for each row', () => {
    expect(rows.filter((row) => !titles.some((title) => title.startsWith(`${row}: `)))).toEqual([])
  })

  it('knows the row of each test', () => {
    expect(titles.filter((title) => !rows.some((row) => title.startsWith(`${row}: `)))).toEqual([])
  })
})

describe('the rows are those of the code', () => {
  const served = useServedApp()

  it('each file belongs to a table', () => {
    const isOfTable = (name: string) => Object.values(TABLES).some(({ files }) => files.test(name))
    expect([...titlesByFile.keys()].filter((name) => !isOfTable(name))).toEqual([])
  })

  it('each field of an endpoint and of a job has its row', () => {
    const endpointRows: string[] = TABLES['endpoint fields'].rows
    expect(endpointRows.slice(0, -1).sort()).toEqual(Object.keys(endpointBody.shape).sort())
    const jobRows = TABLES['job fields'].rows.flatMap((row) => row.split(' or '))
    expect(jobRows.slice(0, -1).sort()).toEqual(Object.keys(jobBody.shape).sort())
  })

  it('each route has its row', () => {
    const rows = new Set<string>(Object.values(TABLES).flatMap((table) => table.rows))
    const paths = served.app.swagger().paths as Record<string, object>
    const routes = Object.entries(paths).flatMap(([path, operations]) =>
      Object.keys(operations).map(
        (method) => `${method.toUpperCase()} ${path.replaceAll(/\{(\w+)\}/g, ':$1')}`,
      ),
    )
    expect(routes.length).toBeGreaterThan(40)
    const isElsewhere = (route: string) => ELSEWHERE.some((shape) => shape.test(route))
    expect(routes.filter((route) => !rows.has(route) && !isElsewhere(route))).toEqual([])
  })
})

/** The titles in calls of it('…') and it.each(…)('…'). */
function titlesIn(source: string): string[] {
  return [...source.matchAll(/^ {2}it(?:\.each\([^\n]*?\))?\(\s*'((?:[^'\\]|\\.)*)'/gm)].map(
    (found) => found[1] as string,
  )
}
