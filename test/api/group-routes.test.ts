// The table of the routes of groups, and the field `group` of jobs.
import { describe, expect, it } from 'vitest'
import {
  type Body,
  CONCURRENT,
  DAY_MS,
  expectProblem,
  soon,
  useApi,
} from '../support/api-fixture.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'

const NO_GROUP = 'grp_00000000000000000000000000'

describe.each(SQLITE_UNLESS_LONG)('on %s', CONCURRENT, (engine) => {
  const fixture = useApi(engine)
  const { request, get } = fixture

  async function create(fields: object = {}): Promise<Body> {
    const answer = await request('POST', '/groups', fields)
    expect(answer).toMatchObject({ status: 201 })
    return answer.body
  }

  it('POST /groups: 201 with all fields and defaults, 200 for a repeat, 422 for another one', async () => {
    const plain = await request('POST', '/groups')
    expect(plain).toMatchObject({
      status: 201,
      body: {
        ...{ id: expect.stringMatching(/^grp_[0-9a-z]{26}$/), name: null, state: 'open' },
        ...{ members: 0, progress: 0, metadata: {}, tags: [], fairnessKey: null, onFinish: [] },
        counts: { queued: 0, running: 0, succeeded: 0, dead: 0, cancelled: 0 },
        ...{ closeAfter: '7d', idempotencyKey: null, closedAt: null, closedBy: null },
        ...{ finishedAt: null, finishes: 0 },
      },
    })
    const { id, createdAt, closesAt } = plain.body
    expect(plain.headers.get('location')).toBe(`/groups/${id}`)
    expect(Date.parse(closesAt) - Date.parse(createdAt)).toBe(7 * DAY_MS)
    const { name: endpoint } = await fixture.pulledEndpoint()
    const fields = {
      ...{ name: 'import', metadata: { b: '1', a: '2' }, tags: ['x'], fairnessKey: 'tenant' },
      onFinish: { endpoint, when: 'all_final' },
      closeAfter: null,
    }
    const key = { 'idempotency-key': 'create-1' }
    const first = await request('POST', '/groups', fields, key)
    const { onFinish, ...shown } = fields
    expect(first).toMatchObject({
      status: 201,
      body: { ...shown, onFinish: [onFinish], closesAt: null, idempotencyKey: 'create-1' },
    })
    const sorted = { ...fields, metadata: { a: '2', b: '1' }, onFinish: [onFinish] }
    expect(await request('POST', '/groups', sorted, key)).toMatchObject({
      status: 200,
      body: { id: first.body.id, deduplicated: true },
    })
    expectProblem(await request('POST', '/groups', {}, key), 422, 'idempotency_key_reused')
    const nowhere = { onFinish: { endpoint: 'nowhere', when: 'all_final' } }
    expectProblem(await request('POST', '/groups', nowhere), 422, 'endpoint_not_found')
  })

  it.each([
    ['/name', { name: '' }],
    ['/name', { name: 'x'.repeat(201) }],
    ['/closeAfter', { closeAfter: '0s' }],
    ['/onFinish', { onFinish: 'alerts' }],
    ['/onFinish', { onFinish: { endpoint: 'alerts', when: 'sometimes' } }],
    ['/onFinish', { onFinish: Array(4).fill({ endpoint: 'a', when: 'all_final' }) }],
  ])('POST /groups: 400 for a wrong %s', async (path, fields) => {
    const { status, body } = await request('POST', '/groups', fields)
    expect([status, body.code]).toEqual([400, 'invalid_request'])
    expect(body.errors[0].path.startsWith(path)).toBe(true)
  })

  it('members: POST /jobs is 201 in an open group, 409 in a closed one, 422 in an unknown one', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const group = await create()
    const { body } = await endpoint.post({ group: group.id })
    expect(body.group).toBe(group.id)
    expect((await endpoint.post()).body.group).toBeNull()
    expect(await get(`/groups/${group.id}`)).toMatchObject({ members: 1, counts: { queued: 1 } })
    expect(await request('POST', `/groups/${group.id}/close`)).toMatchObject({
      status: 200,
      body: { state: 'closed', closedBy: 'request' },
    })
    expect((await request('POST', `/groups/${group.id}/close`)).body.state).toBe('closed')
    expectProblem(await endpoint.post({ group: group.id }), 409, 'group_closed')
    expectProblem(await endpoint.post({ group: NO_GROUP }), 422, 'group_not_found')
    await fixture.expectJobRefused('/group', { group: 'import' }, { group: '#group' })
  })

  it('members: each item of POST /jobs/batch has a group of its own, or none', async () => {
    const { name: endpoint } = await fixture.pulledEndpoint()
    const [open, closed] = [await create(), await create()]
    await request('POST', `/groups/${closed.id}/close`)
    const groups = [open.id, closed.id, null, open.id, NO_GROUP]
    const jobs = groups.map((group) => ({ endpoint, payload: 1, group }))
    const { body } = await request('POST', '/jobs/batch', { jobs })
    const outcomes = body.items.map(({ status, error }: Body) => error?.code ?? status)
    expect(outcomes).toEqual([201, 'group_closed', 201, 201, 'group_not_found'])
    expect((await get(`/groups/${open.id}`)).members).toBe(2)
  })

  it('members: a batch with a group puts its items in, and open: false closes it', async () => {
    const { name: endpoint } = await fixture.endpoint()
    const item = { endpoint, payload: 1 }
    const group = { name: 'batch', open: false, idempotencyKey: 'batch-1' }
    const jobs = [
      { ...item, idempotencyKey: 'item-1' },
      { ...item, group: null },
      item,
      { ...item, group: null, dependsOn: ['#group', '#1'] },
    ]
    const { status, body } = await request('POST', '/jobs/batch', { group, jobs })
    expect(status).toBe(200)
    const { id } = body.group
    expect(body).toMatchObject({
      group: { name: 'batch', members: 2, closedBy: 'request' },
      items: [{ group: id }, { group: null }, { group: id }, { group: null }],
    })
    const last = await fixture.job(body.items[3].id, 'succeeded')
    expect(last.dependsOn).toEqual([id, body.items[1].id])
    expect((await get(`/groups/${id}`)).state).toBe('succeeded')
    const again = await request('POST', '/jobs/batch', { group, jobs: jobs.slice(0, 1) })
    expect(again.body).toMatchObject({
      group: { id, members: 2 },
      items: [{ status: 200, id: body.items[0].id, deduplicated: true, group: id }],
    })
  })

  it('members: the group of a batch stays open if an item was refused; needs a key for keys', async () => {
    const { name: endpoint } = await fixture.pulledEndpoint()
    const item = { endpoint, payload: 1 }
    const jobs = [
      item,
      { ...item, endpoint: 'nowhere' },
      { ...item, group: null, dependsOn: ['#group'] },
    ]
    const { body } = await request('POST', '/jobs/batch', { group: { open: false }, jobs })
    expect(body.group).toMatchObject({ state: 'open', members: 1 })
    expect(body.items.map((one: Body) => one.error?.code ?? one.status)).toEqual([
      ...[201, 'endpoint_not_found', 'invalid_request'],
    ])
    const keyed = { group: {}, jobs: [{ ...item, idempotencyKey: 'k' }] }
    const refused = await request('POST', '/jobs/batch', keyed)
    expect(refused).toMatchObject({
      status: 400,
      body: { errors: [{ path: '/group/idempotencyKey' }] },
    })
    const named = { jobs: [{ ...item, dependsOn: ['#group'] }] }
    const { body: without } = await request('POST', '/jobs/batch', named)
    expect(without.items[0].error.code).toBe('invalid_request')
  })

  it('dependents: a job that depends on a group waits for its success, fails with it, and is refused while it is open', async () => {
    const endpoint = await fixture.endpoint()
    const pulled = await fixture.pulledEndpoint()
    const group = await create()
    const member = await pulled.enqueue({ group: group.id })
    expectProblem(await endpoint.post({ dependsOn: [group.id] }), 409, 'group_open')
    expect((await endpoint.post({ dependsOn: [NO_GROUP] })).status).toBe(400)
    await request('POST', `/groups/${group.id}/close`)
    const waiting = await endpoint.enqueue({ dependsOn: [group.id] })
    expect(await get(`/jobs/${waiting}/explain`)).toMatchObject({
      ...{ reason: 'waiting_for_dependencies', detail: `it waits for ${group.id}` },
    })
    const { body } = await request('POST', `/endpoints/${pulled.name}/claim`, {})
    const { token } = body.jobs[0]
    await request('POST', `/jobs/${member}/complete?token=${token}`, { result: null })
    expect((await fixture.job(waiting, 'succeeded')).dependsOn).toEqual([group.id])
    const failed = await create()
    const doomed = await pulled.enqueue({ group: failed.id, delay: '1h' })
    await request('POST', `/groups/${failed.id}/close`)
    const dependent = await endpoint.enqueue({ dependsOn: [failed.id] })
    expect((await request('DELETE', `/groups/${failed.id}`)).status).toBe(409)
    await request('POST', `/jobs/${doomed}/cancel`)
    expect((await fixture.job(dependent, 'dead')).failure).toMatchObject({
      reason: 'dependency_failed',
    })
  })

  it('members: a copy joins the group of its body, and not that of the job', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const [first, second] = [await create(), await create()]
    const id = await endpoint.enqueue({ group: first.id })
    expect((await request('POST', `/jobs/${id}/copy`)).body.group).toBeNull()
    const joined = await request('POST', `/jobs/${id}/copy`, { group: second.id })
    expect(joined).toMatchObject({ status: 201, body: { group: second.id } })
    const refused = await request('POST', `/jobs/${id}/copy`, { group: 'import' })
    expect(refused.status).toBe(400)
  })

  it('members: GET /jobs?group lists the jobs of the group, newest first, also by state', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const group = await create()
    const ids = [
      await endpoint.enqueue({ group: group.id }),
      await endpoint.enqueue({ group: group.id, tags: ['x'] }),
    ]
    await endpoint.enqueue()
    await request('POST', `/jobs/${ids[0]}/cancel`)
    const list = async (query: string) =>
      (await get(`/jobs?group=${group.id}${query}`)).items.map(({ id }: Body) => id)
    expect(await list('')).toEqual(ids.toReversed())
    expect(await list('&state=cancelled')).toEqual([ids[0]])
    expect(await list('&tag=x')).toEqual([ids[1]])
    expect((await request('GET', '/jobs?group=import')).status).toBe(400)
  })

  it('POST /groups/:id/close: 200, also for a closed group', async () => {
    const { id } = await create()
    for (let i = 0; i < 2; i++) {
      const answer = await request('POST', `/groups/${id}/close`)
      expect(answer).toMatchObject({ status: 200, body: { state: 'succeeded', finishes: 1 } })
    }
  })

  it('POST /groups/:id/retry: 202 for a failed group, 409 for one that has succeeded', async () => {
    const endpoint = await fixture.endpoint()
    const { id } = await create()
    const job = await endpoint.enqueue({ group: id, delay: '1h' })
    await request('POST', `/jobs/${job}/cancel`)
    await request('POST', `/groups/${id}/close`)
    expect((await request('POST', `/groups/${id}/retry`)).status).toBe(202)
    expect(await get(`/groups/${id}?wait=30s`)).toMatchObject({ state: 'succeeded', finishes: 2 })
    expectProblem(await request('POST', `/groups/${id}/retry`), 409, 'group_state_conflict')
  })

  it('GET /groups/:id: with ?wait responds when the group is final', async () => {
    const endpoint = await fixture.endpoint()
    const group = await create()
    await endpoint.enqueue({ group: group.id })
    const waiting = get(`/groups/${group.id}?wait=30s`)
    await request('POST', `/groups/${group.id}/close`)
    expect(await waiting).toMatchObject({ state: 'succeeded', progress: 100, finishes: 1 })
    for (const id of [NO_GROUP, 'import']) {
      expectProblem(await request('GET', `/groups/${id}`), 404, 'group_not_found')
    }
  })

  it('GET /groups: newest first, by state and name, in pages', async () => {
    const ids: string[] = []
    for (let i = 0; i < 3; i++) ids.unshift((await create({ name: 'listed' })).id)
    const found: string[] = []
    let cursor = ''
    do {
      const { items, nextCursor } = await get(`/groups?limit=2&name=listed${cursor}`)
      found.push(...items.map(({ id }: Body) => id))
      cursor = nextCursor === null ? '' : `&cursor=${nextCursor}`
    } while (cursor !== '')
    expect(found).toEqual(ids)
    await request('POST', `/groups/${ids[1]}/close`)
    const { items } = await get('/groups?state=succeeded&name=listed')
    expect(items).toMatchObject([{ id: ids[1], counts: { succeeded: 0, dead: 0, cancelled: 0 } }])
    expect((await request('GET', '/groups?state=final')).status).toBe(400)
    expect((await request('GET', '/groups?cursor=x')).status).toBe(400)
  })

  it('POST /groups/:id/cancel: 202, then the jobs change, and so for a retry', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const group = await create()
    await endpoint.enqueue({ group: group.id })
    const path = `/groups/${group.id}`
    expectProblem(await request('POST', `${path}/retry`), 409, 'group_state_conflict', {
      detail: 'the group is open; retry needs one that is closed or failed',
    })
    const cancelled = await request('POST', `${path}/cancel`)
    expect(cancelled).toMatchObject({ status: 202, body: { closedBy: 'cancel' } })
    await soon(async () => expect((await get(path)).state).toBe('failed'))
    expect((await get(path)).counts).toMatchObject({ cancelled: 1, queued: 0 })
    expectProblem(await request('POST', `${path}/cancel`), 409, 'group_state_conflict')
    expect((await request('POST', `${path}/retry`)).status).toBe(202)
    await soon(async () => expect((await get(path)).counts.queued).toBe(1))
    for (const command of ['close', 'cancel', 'retry']) {
      const answer = await request('POST', `/groups/${NO_GROUP}/${command}`)
      expectProblem(answer, 404, 'group_not_found')
    }
  })

  it('DELETE /groups/:id: 204 for a final group, whose jobs stay', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const group = await create()
    const id = await endpoint.enqueue({ group: group.id })
    const path = `/groups/${group.id}`
    expectProblem(await request('DELETE', path), 409, 'group_state_conflict')
    await request('POST', `/jobs/${id}/cancel`)
    await request('POST', `${path}/close`)
    expect((await request('DELETE', path)).status).toBe(204)
    expectProblem(await request('DELETE', path), 404, 'group_not_found')
    expect((await fixture.readJob(id)).group).toBe(group.id)
    expect((await get(`/jobs?group=${group.id}`)).items).toHaveLength(1)
    // A retry of a job whose group is gone counts nowhere.
    expect((await request('POST', `/jobs/${id}/retry`)).status).toBe(200)
  })
})
