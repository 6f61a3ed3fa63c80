import { beforeAll, describe, expect, it } from 'vitest'
import {
  type AnswerCheck,
  createAnswerCheck,
  type RecordedAnswer,
} from '../support/recorded-answers.ts'
import { useServedApp } from '../support/served-app.ts'

let check: AnswerCheck
let real: RecordedAnswer
const served = useServedApp()
beforeAll(async () => {
  check = createAnswerCheck(served.app.swagger())
  const json = { 'content-type': 'application/json' }
  const url = { body: '{"url":"http://127.0.0.1:3000/"}', headers: json }
  await fetch(`${served.url}/endpoints/a`, { method: 'PUT', ...url })
  const job = { body: '{"endpoint":"a","payload":[1.0]}', headers: json }
  const answer = await fetch(`${served.url}/jobs`, { method: 'POST', ...job })
  real = {
    method: 'POST',
    path: '/jobs',
    status: answer.status,
    headers: Object.fromEntries(answer.headers),
    body: await answer.text(),
  }
})

const changed = (changes: Partial<RecordedAnswer>) => check.problemsOf({ ...real, ...changes })
const withField = (field: object) =>
  changed({ body: JSON.stringify({ ...JSON.parse(real.body), ...field }) })

describe('a response that a test gets', () => {
  it('passes when it is described', () => {
    expect(real.status).toBe(201)
    expect(changed({})).toEqual([])
  })

  it('fails with a field that is not described, or of another type, or without one that is', () => {
    expect(withField({ secretly: 1 })).toEqual([expect.stringContaining('secretly')])
    expect(withField({ priority: '5' })).toEqual([expect.stringContaining('priority')])
    expect(withField({ state: 'asleep' })).toEqual([expect.stringContaining('state')])
    expect(withField({ runAt: 'soon' })).toEqual([expect.stringContaining('runAt')])
    expect(withField({ id: undefined })).toEqual([expect.stringContaining('id')])
  })

  it('fails with a status, a type or a header that is not described', () => {
    expect(changed({ status: 202 })).toContainEqual(expect.stringContaining('status'))
    const html = { ...real.headers, 'content-type': 'text/html' }
    expect(changed({ headers: html })).toEqual([expect.stringContaining('text/html')])
    const allow = { ...real.headers, allow: 'GET' }
    expect(changed({ headers: allow })).toEqual([expect.stringContaining('allow')])
  })

  it('fails without a header that is described', () => {
    const { location, ...headers } = real.headers
    expect(location).toMatch(/^\/jobs\/job_/)
    expect(changed({ headers })).toEqual([expect.stringContaining('location')])
  })

  it('fails with a body where there should be none', () => {
    const headers = { 'x-request-id': 'x' }
    const deleted = { method: 'DELETE', path: '/jobs/x', status: 204, headers }
    expect(check.problemsOf({ ...deleted, body: '' })).toEqual([])
    expect(check.problemsOf({ ...deleted, body: '{}' })).toEqual([expect.stringContaining('body')])
  })

  it('is distinguished from a longer path, and a path that no route has gets a problem', () => {
    const headers = { 'content-type': 'application/problem+json' }
    const unknown = { method: 'GET', path: '/jobs/x/y/z', headers, body: '{}' }
    expect(check.problemsOf({ ...unknown, status: 404 })).toEqual([])
    expect(check.problemsOf({ ...unknown, status: 200 })).toHaveLength(1)
    expect(check.problemsOf({ ...unknown, status: 405 })).toEqual([
      expect.stringContaining('Allow'),
    ])
  })
})
