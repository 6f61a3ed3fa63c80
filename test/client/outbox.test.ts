// The document that a TypeScript application inserts into the outbox.
import { describe, expect, it } from 'vitest'
import { outboxDocument } from '../../src/client/client.ts'
import { isJobId, timeOfJobId } from '../../src/job/job-id.ts'

describe('the document of a job', () => {
  it('has the id that the job will have, made now', () => {
    const before = Date.now()
    const ids = Array.from({ length: 100 }, () => outboxDocument({ endpoint: 'a', payload: 1 })._id)
    expect(new Set(ids).size).toBe(100)
    expect(ids.filter((id) => !isJobId(id))).toEqual([])
    for (const id of ids) {
      expect(timeOfJobId(id)).toBeGreaterThanOrEqual(before)
      expect(timeOfJobId(id)).toBeLessThanOrEqual(Date.now())
    }
  })

  it('has the options that were given, and the payload as JSON text', () => {
    const { _id, ...rest } = outboxDocument({
      endpoint: 'a',
      payload: { 'a.$b': [1] },
      priority: 7,
      tags: undefined,
    })
    expect(rest).toEqual({ endpoint: 'a', priority: 7, payloadJson: '{"a.$b":[1]}' })
  })

  it('has a raw payload byte for byte', () => {
    const { payloadJson } = outboxDocument({
      endpoint: 'a',
      rawPayload: '[1.0, 12345678901234567890]',
    })
    expect(payloadJson).toBe('[1.0, 12345678901234567890]')
  })

  it('has null where null means none', () => {
    const none = { expiresIn: null, orderingKey: null, fairnessKey: null, onFinish: null }
    expect(outboxDocument({ endpoint: 'a', payload: null, ...none })).toMatchObject({
      ...none,
      payloadJson: 'null',
    })
  })

  it.each([
    [{ runAt: new Date(Number.NaN) }, /^runAt is an invalid Date/],
    [{ runAt: null }, /^runAt is null/],
    [{ delay: null }, /^delay is null/],
    [{ priority: null }, /^priority is null/],
    [{ cost: null }, /^cost is null/],
    [{ tags: null }, /^tags is null/],
    [{ endpoint: null }, /^endpoint is null/],
    [{ endpoint: undefined }, /^endpoint is not a name/],
    [{ idempotencyKey: null }, /cannot have idempotencyKey/],
    [{ idempotencyKey: 'k' }, /cannot have idempotencyKey/],
    [{ dedupe: { key: 'k', mode: 'keep' } }, /cannot have dedupe/],
    [{ dependsOn: [] }, /cannot have dependsOn/],
    [{ rawPayload: null, payload: undefined }, /^rawPayload is null/],
  ])('is refused when it could never become a job: %j', (fields, says) => {
    const job = { endpoint: 'a', payload: 1, ...fields }
    const made = () => outboxDocument(job as unknown as Parameters<typeof outboxDocument>[0])
    expect(made).toThrow(TypeError)
    expect(made).toThrow(says)
  })

  it.each([
    [{ endpoint: 'a', payload: undefined }],
    [{ endpoint: 'a', rawPayload: '{"a":1},"priority":9' }],
  ])('is refused without a payload that is JSON: %j', (job) => {
    expect(() => outboxDocument(job as Parameters<typeof outboxDocument>[0])).toThrow(TypeError)
  })
})
