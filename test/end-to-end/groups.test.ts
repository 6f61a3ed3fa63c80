// The promise of a group: an import adds its rows, also from a handler, and after the last one
// there is exactly one notice with the right counts. A retry of the dead rows ends in another one.
import { describe, expect, it } from 'vitest'
import { type Body, soon, useApi } from '../support/api-fixture.ts'
import { ENGINES } from '../support/engines.ts'
import type { ReceivedRequest } from '../support/receiver.ts'

const ROWS = 60
/** The handlers of these rows add one more each. */
const ADDING = 10
const DEADLINE_MS = 60_000

describe.each(ENGINES)('on %s', { timeout: 2 * DEADLINE_MS }, (engine) => {
  const fixture = useApi(engine, {}, 2)
  const { request, get } = fixture

  /** The bodies of the notices that came, and no fewer than `count`. */
  async function noticesOf(report: { receiver: { requests: ReceivedRequest[] } }, count: number) {
    await soon(() => expect(report.receiver.requests.length).toBe(count), DEADLINE_MS)
    return report.receiver.requests.map(({ body }): Body => JSON.parse(body.toString()))
  }

  it('an import has one notice, after the last row, and another one after a retry', async () => {
    const done: string[] = []
    let isRepaired = false
    const report = await fixture.endpoint(async () => 200)
    const rows = await fixture.endpoint(async ({ body, headers }) => {
      const { row } = JSON.parse(body.toString())
      if (row === 'broken' && !isRepaired) return 422
      if (Number(row) < ADDING) {
        const added = await request('POST', '/jobs', {
          ...{ endpoint: rows.name, payload: { row: `more-${row}` }, group: group.id },
        })
        expect(added).toMatchObject({ status: 201, body: { group: group.id } })
      }
      done.push(headers['webhook-id'] as string)
      return 200
    })
    const created = await request('POST', '/groups', {
      name: 'import 7',
      metadata: { file: 'rows.csv' },
      onFinish: { endpoint: report.name, when: 'all_final' },
    })
    expect(created).toMatchObject({ status: 201, body: { state: 'open', progress: 0 } })
    const group = created.body
    const payloads = Array.from({ length: ROWS }, (_, row) => ({ row }))
    const jobs = payloads.map((payload) => ({ endpoint: rows.name, payload, group: group.id }))
    const { body: batch } = await request('POST', '/jobs/batch', { jobs })
    for (const { status } of batch.items) expect(status).toBe(201)
    const broken = await rows.enqueue({ payload: { row: 'broken' }, group: group.id })
    // The handlers that add rows must have done so: afterwards the group takes none.
    await soon(() => expect(done.length).toBe(ROWS + ADDING), DEADLINE_MS)
    expect(report.receiver.requests).toEqual([])

    expect(await request('POST', `/groups/${group.id}/close`)).toMatchObject({ status: 200 })
    const late = await rows.post({ payload: { row: 'late' }, group: group.id })
    expect(late).toMatchObject({ status: 409, body: { code: 'group_closed' } })
    const [first] = await noticesOf(report, 1)
    const counts = { queued: 0, running: 0, succeeded: ROWS + ADDING, dead: 1, cancelled: 0 }
    expect(first).toMatchObject({
      ...{ groupId: group.id, name: 'import 7', state: 'failed', when: 'all_final', counts },
      metadata: { file: 'rows.csv' },
      failures: [{ jobId: broken, failure: { reason: 'rejected' } }],
    })
    const failed = await get(`/groups/${group.id}?wait=10s`)
    expect(failed).toMatchObject({ state: 'failed', counts, progress: 100, finishes: 1 })
    const { items } = await get(`/jobs?group=${group.id}&limit=100`)
    expect(items).toHaveLength(ROWS + ADDING + 1)

    isRepaired = true
    expect(await request('POST', `/groups/${group.id}/retry`)).toMatchObject({ status: 202 })
    const [, second] = await noticesOf(report, 2)
    expect(second).toMatchObject({
      ...{ groupId: group.id, state: 'succeeded', failures: [] },
      counts: { ...counts, succeeded: ROWS + ADDING + 1, dead: 0 },
    })
    expect(new Set(done).size).toBe(ROWS + ADDING + 1)
    expect(report.receiver.requests).toHaveLength(2)
  })
})
