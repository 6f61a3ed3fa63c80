// The content of a notice, and the final states that have one.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, it } from 'vitest'
import { MAX_HOPS } from '../../src/job/job.ts'
import { isJobId } from '../../src/job/job-id.ts'
import { hasTooManyHops, noticeOf, sendsNotice } from '../../src/job/notice.ts'

const NOW = 1_800_000_000_000
const finished = {
  id: 'job_1',
  createdAt: 1_700_000_000_000,
  endpoint: 'invoice-pdf',
  state: 'succeeded',
  result: '{"id":12345678901234567890,"b":1,"a":2}',
  failure: null,
  metadata: { customer: '7' },
  fairnessKey: 'tenant-7',
  hops: 2,
} as const

function textOf(...job: Parameters<typeof noticeOf>): string {
  return Buffer.from(noticeOf(...job).payload).toString()
}

describe('a notice', () => {
  it('carries the result as the text it came in', () => {
    expect(textOf(finished, 1, 'notified', NOW)).toBe(
      '{"jobId":"job_1","endpoint":"invoice-pdf","state":"succeeded",' +
        '"metadata":{"customer":"7"},"result":{"id":12345678901234567890,"b":1,"a":2}}',
    )
    expect(textOf({ ...finished, result: null }, 1, 'notified', NOW)).toMatch(/,"result":null\}$/)
  })

  it('carries the failure of a death, and of a cancel that there was none', () => {
    const failure = { reason: 'rejected', message: 'said "no"\n' } as const
    const dead = textOf({ ...finished, state: 'dead', result: null, failure }, 1, 'notified', NOW)
    expect(JSON.parse(dead)).toEqual({
      jobId: 'job_1',
      endpoint: 'invoice-pdf',
      state: 'dead',
      metadata: { customer: '7' },
      failure,
    })
    const cancelled = textOf({ ...finished, state: 'cancelled', result: null }, 1, 'notified', NOW)
    expect(JSON.parse(cancelled)).toMatchObject({ state: 'cancelled', failure: null })
  })

  it('has the payload that docs/on-finish.md shows', () => {
    const page = readFileSync(join(import.meta.dirname, '../../docs/on-finish.md'), 'utf8')
    const shown = JSON.parse(/```json\n(.*?)```/s.exec(page)?.[1] ?? '')
    const { jobId: id, ...rest } = shown
    const unseen = { createdAt: NOW, result: null, fairnessKey: null, hops: 0 }
    const payload = textOf({ ...rest, id, ...unseen }, 1, 'alerts', NOW)
    expect(JSON.parse(payload)).toEqual(shown)
  })

  it('is a plain job, due now, known by the job and how often that was final', () => {
    const notice = noticeOf(finished, 3, 'notified', NOW)
    expect(isJobId(notice.id)).toBe(true)
    expect(notice).toMatchObject({
      endpoint: 'notified',
      runAt: NOW,
      createdAt: NOW,
      originKey: 'finish:job_1:1700000000000:3',
      onFinish: null,
      dependsOn: [],
      orderingKey: null,
      fairnessKey: 'tenant-7',
      cost: 1,
      dedupe: null,
      idempotency: null,
    })
    expect(noticeOf(finished, 4, 'notified', NOW).originKey).not.toBe(notice.originKey)
  })
})

describe('the hops of a notice', () => {
  it('are one more than those of its job, and at most as many as those of a request', () => {
    const noticeAfter = (hops: number) => noticeOf({ ...finished, hops }, 1, 'notified', NOW)
    expect(noticeAfter(0).hops).toBe(1)
    expect(noticeAfter(MAX_HOPS - 1).hops).toBe(MAX_HOPS)
    expect(hasTooManyHops(noticeAfter(MAX_HOPS - 1))).toBe(false)
    expect(hasTooManyHops(noticeAfter(MAX_HOPS))).toBe(true)
  })
})

describe('a finish', () => {
  it('is sent in the states that were named', () => {
    const onFinish = { endpoint: 'notified', states: ['dead', 'cancelled'] as const }
    const named = { ...onFinish, states: [...onFinish.states] }
    expect(sendsNotice(named, 'dead')).toBe(true)
    expect(sendsNotice(named, 'succeeded')).toBe(false)
    expect(sendsNotice(null, 'dead')).toBe(false)
  })
})
