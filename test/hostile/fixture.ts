// One API with records for hostile requests, and a client that checks every response.
import { randomBytes } from 'node:crypto'
import { expect } from 'vitest'
import { ERRORS, type ErrorCode } from '../../src/errors.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import type { Engine } from '../support/engines.ts'
import type { Process } from '../support/process.ts'
import { describedApi } from '../support/recorded-answers.ts'
import { type Json, type Operation, operationsOf, type Samples } from './operations.ts'

/** Longer than any request here may take: a request that takes this long hangs. */
const HANGING_MS = 10_000

interface Heard {
  status: number
  headers: Headers
  text: string
}

export interface Fixture {
  posthorn: Deployment
  api: Process
  operations: Operation[]
  /** Fails if the response is a 5xx, takes too long, or is not described in openapi.json. */
  ask(method: string, path: string, body?: string, headers?: object): Promise<Heard>
  /** Enqueues a job of the endpoint `known`. */
  newJob(): Promise<string>
  /** Makes a job that a handler holds, and returns it with its token. */
  heldJob(): Promise<{ id: string; token: string }>
}

const SAMPLES: Samples = {
  url: 'https://example.com/hook',
  secret: `whsec_${randomBytes(32).toString('base64')}`,
  cron: '0 9 * * *',
  timezone: 'Europe/Berlin',
  runAt: '2026-11-24T08:30:00Z',
  startAt: '2026-11-24T08:30:00Z',
  endAt: '2999-11-24T08:30:00Z',
  createdAfter: '2026-11-24T08:30:00Z',
  createdBefore: '2026-11-24T08:30:00Z',
  dependsOn: [],
  filter: { tag: 'of no job' },
  jobs: [{ endpoint: 'known', payload: 1 }],
}

/** @param settings of the API process */
export async function openFixture(
  engine: Engine,
  settings: Record<string, string> = {},
): Promise<Fixture> {
  const posthorn = deploy(engine, settings)
  const api = await posthorn.startApi()
  const { document, check } = describedApi()
  const key = settings.API_KEYS?.split(',', 1)[0]
  const known = key === undefined ? {} : { authorization: `Bearer ${key}` }

  async function ask(method: string, path: string, body?: string, headers: object = {}) {
    const answer = await fetch(posthorn.url() + path, {
      method,
      headers: {
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
        ...known,
        ...headers,
      },
      ...(body === undefined ? {} : { body }),
      signal: AbortSignal.timeout(HANGING_MS),
      redirect: 'manual',
    })
    const text = await answer.text()
    const where = `${method} ${path.slice(0, 200)} ${body?.slice(0, 300) ?? ''} → ${text}`
    const names = Object.fromEntries(answer.headers)
    const recorded = { method, path, status: answer.status, headers: names, body: text }
    expect(check.problemsOf(recorded), where).toEqual([])
    if (answer.status >= 400) expectKnownProblem(answer, text, where)
    return { status: answer.status, headers: answer.headers, text }
  }

  async function made(method: string, path: string, body: object, status = 201): Promise<Json> {
    const answer = await ask(method, path, JSON.stringify(body))
    expect(answer).toMatchObject({ status })
    return JSON.parse(answer.text)
  }

  for (const name of ['known', 'idle', 'held'])
    await made('PUT', `/endpoints/${name}`, { url: null })

  return {
    posthorn,
    api,
    operations: operationsOf(document, SAMPLES),
    ask,
    newJob: async () => (await made('POST', '/jobs', { endpoint: 'known', payload: 1 })).id,
    async heldJob() {
      await made('POST', '/jobs', { endpoint: 'held', payload: 1 })
      const { jobs } = await made('POST', '/endpoints/held/claim', { lease: '1h' }, 200)
      return { id: jobs[0].id, token: jobs[0].token }
    },
  }
}

/** Expects a known error code with its own status, and no internal details. */
function expectKnownProblem(answer: Response, text: string, where: string): void {
  expect(answer.status, where).toBeLessThan(500)
  expect(answer.headers.get('content-type'), where).toMatch(/^application\/problem\+json/)
  if (text === '') return
  const problem: Json = JSON.parse(text)
  expect(Object.keys(ERRORS), where).toContain(problem.code)
  const usual = ERRORS[problem.code as ErrorCode].status
  const isOfName = ['endpoint_not_found', 'limit_not_found'].includes(problem.code)
  const known = isOfName ? [404, 422] : [usual]
  expect(known, where).toContain(answer.status)
  expect(problem.requestId, where).toBe(answer.headers.get('x-request-id'))
  expectNothingFromInside(text, where)
}

/** Expects no stack trace, no path of a file, and no word of a driver. */
export function expectNothingFromInside(text: string, where: string): void {
  expect(text, where).not.toMatch(
    /node_modules|\.ts:\d|\n\s+at |SQLITE|MongoServer|BSON|(Type|Range|Syntax)Error|FST_ERR/,
  )
}
