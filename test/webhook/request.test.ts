// The request of an attempt: the header table of the delivery contract, and which value takes
// precedence.
import { describe, expect, it } from 'vitest'
import { newSecret } from '../../src/endpoint/endpoint.ts'
import { DELIVERY_HEADERS, type SentWith } from '../../src/webhook/delivery-headers.ts'
import { pingRequest, type RequestParts, webhookRequest } from '../../src/webhook/request.ts'
import { signatureHeader } from '../../src/webhook/signature.ts'

const NOW = Date.UTC(2026, 10, 24, 8, 30, 0, 123)
const PAYLOAD = Buffer.from('{"b":1,"a":1.0}')

function parts(ofEndpoint = {}, ofJob = {}): RequestParts {
  return {
    job: {
      jobId: 'job_01jd2y8x7k0000000000000000',
      fence: 7,
      attemptNumber: 3,
      attemptsLeft: 2,
      runAt: NOW - 1_500,
      payload: PAYLOAD,
      inputs: null,
      scheduleName: null,
      hops: 2,
    },
    headers: ofJob,
    endpoint: {
      name: 'invoice-pdf',
      secrets: [newSecret(), newSecret()],
      headers: ofEndpoint,
      statuses: {},
    },
    url: 'https://example.com/hook?x=1',
    completion: null,
    trace: null,
    now: NOW,
    timeoutMs: 15_000,
    userAgent: 'Posthorn/1.2.3',
  }
}

function asRecord(headers: string[]): Record<string, string> {
  const record: Record<string, string> = {}
  for (let i = 0; i < headers.length; i += 2)
    record[headers[i] as string] = headers[i + 1] as string
  return record
}

const headersOf = (given: RequestParts) => asRecord(webhookRequest(given).headers)

describe('webhookRequest', () => {
  it('sends every header of the contract, and no other', () => {
    const given = parts()
    const { jobId } = given.job
    expect(headersOf(given)).toEqual({
      'webhook-id': jobId,
      'webhook-timestamp': '1795509000',
      'webhook-signature': signatureHeader(given.endpoint.secrets, jobId, 1_795_509_000, PAYLOAD),
      'idempotency-key': jobId,
      'posthorn-endpoint': 'invoice-pdf',
      'posthorn-attempt': '3',
      'posthorn-attempts-left': '2',
      'posthorn-fence': '7',
      'posthorn-hops': '3',
      'posthorn-scheduled-for': '2026-11-24T08:29:58.623Z',
      'posthorn-deadline': '2026-11-24T08:30:15.123Z',
      'user-agent': 'Posthorn/1.2.3',
      'accept-encoding': 'identity',
      'content-type': 'application/json',
    })
  })

  it('shows an async handler where to report, with the token of the attempt', () => {
    const completion = { baseUrl: 'https://jobs.example.com/q', token: '7.lease.mac' }
    const headers = headersOf({ ...parts(), completion })
    const base = 'https://jobs.example.com/q/jobs/job_01jd2y8x7k0000000000000000'
    expect(headers).toMatchObject({
      'posthorn-complete-url': `${base}/complete?token=7.lease.mac`,
      'posthorn-fail-url': `${base}/fail?token=7.lease.mac`,
      'posthorn-heartbeat-url': `${base}/heartbeat?token=7.lease.mac`,
    })
  })

  it('names the schedule of a job that has one', () => {
    const given = parts()
    const headers = headersOf({ ...given, job: { ...given.job, scheduleName: 'nightly' } })
    expect(headers['posthorn-schedule']).toBe('nightly')
  })

  it('carries the trace on, over what the caller has set as a header', () => {
    const trace = { traceparent: '00-1-2-01', tracestate: null }
    const given = parts({ traceparent: 'old', tracestate: 'old' })
    expect(headersOf(given)).toMatchObject({ traceparent: 'old', tracestate: 'old' })
    const headers = headersOf({ ...given, trace })
    expect(headers.traceparent).toBe('00-1-2-01')
    expect(headers).not.toHaveProperty('tracestate')
  })

  it('signs a ping that belongs to no job', () => {
    const { endpoint, url } = parts()
    const timing = { now: NOW, timeoutMs: 1_000, userAgent: 'Posthorn/1.2.3' }
    const request = pingRequest({ id: 'ping_1', endpoint, url, ...timing })
    expect(request.body.toString()).toBe('{"type":"posthorn.test"}')
    expect(asRecord(request.headers)).toMatchObject({
      'posthorn-test': 'true',
      'webhook-signature': signatureHeader(endpoint.secrets, 'ping_1', 1_795_509_000, request.body),
    })
  })

  it('sends the headers that are documented, and no other', () => {
    const given = parts()
    const withAll = headersOf({
      ...given,
      job: { ...given.job, scheduleName: 'nightly' },
      completion: { baseUrl: 'https://jobs.example.com', token: 't' },
      trace: { traceparent: '00-1-2-01', tracestate: 'a=b' },
    })
    const { endpoint, url } = given
    const timing = { now: NOW, timeoutMs: 1_000, userAgent: 'Posthorn/1.2.3' }
    const ping = asRecord(pingRequest({ id: 'ping_1', endpoint, url, ...timing }).headers)
    const documented = (...sentWith: SentWith[]) =>
      Object.keys(DELIVERY_HEADERS)
        .filter((name) => sentWith.includes(DELIVERY_HEADERS[name]?.sentWith as SentWith))
        .sort()
    expect(Object.keys(headersOf(given)).sort()).toEqual(documented('all', 'jobs'))
    expect(Object.keys(withAll).sort()).toEqual(
      documented('all', 'jobs', 'schedules', 'async', 'traces'),
    )
    expect(Object.keys(ping).sort()).toEqual(documented('all', 'pings'))
  })

  it('passes on the very bytes and the URL of the endpoint', () => {
    const request = webhookRequest(parts())
    expect(request.body).toBe(PAYLOAD)
    expect(request.url).toBe('https://example.com/hook?x=1')
  })

  it('adds the job’s headers, then the endpoint’s over them, whatever their case', () => {
    const headers = headersOf(
      parts({ Authorization: 'Bearer e' }, { authorization: 'Bearer j', 'X-Tenant': 'j' }),
    )
    expect(headers).toMatchObject({ authorization: 'Bearer e', 'x-tenant': 'j' })
  })

  it('lets the caller say another content type, but sends only one', () => {
    const { headers } = webhookRequest(parts({ 'Content-Type': 'application/cloudevents+json' }))
    expect(asRecord(headers)['content-type']).toBe('application/cloudevents+json')
    expect(headers.filter((text) => text.toLowerCase() === 'content-type')).toHaveLength(1)
  })

  it('sends a User-Agent of the caller in place of its own', () => {
    expect(headersOf(parts())['user-agent']).toBe('Posthorn/1.2.3')
    expect(headersOf(parts({ 'User-Agent': 'shop/7' }))['user-agent']).toBe('shop/7')
    const { headers } = webhookRequest(parts({}, { 'user-agent': 'job/7' }))
    expect(asRecord(headers)['user-agent']).toBe('job/7')
    expect(headers.filter((text) => text === 'user-agent')).toHaveLength(1)
  })

  it('takes names that mean something to JavaScript as plain names', () => {
    const ofJob = JSON.parse('{"__proto__":"p","constructor":"c"}')
    const { headers } = webhookRequest(parts({}, ofJob))
    expect(headers[headers.indexOf('__proto__') + 1]).toBe('p')
    expect(headers[headers.indexOf('constructor') + 1]).toBe('c')
  })
})
