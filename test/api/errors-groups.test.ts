// The errors of groups, from the table of error codes.
import { DatabaseSync } from 'node:sqlite'
import { MongoClient } from 'mongodb'
import { describe, expect, it } from 'vitest'
import { MAX_MEMBERS } from '../../src/job/groups.ts'
import { COLLECTIONS } from '../../src/store/collection-names.ts'
import { databaseName } from '../../src/store/mongo/connection.ts'
import { type Body, expectProblem, useApi } from '../support/api-fixture.ts'
import { ENGINES } from '../support/engines.ts'

const NO_GROUP = 'grp_00000000000000000000000000'

describe.each(ENGINES)('on %s', (engine) => {
  const fixture = useApi(engine, {}, 0)
  const { request } = fixture

  const create = async () => (await request('POST', '/groups')).body.id as string

  /** As if so many jobs had joined the group. */
  async function setMemberCount(id: string, count: number): Promise<void> {
    const url = fixture.posthorn.env.STORE_URL as string
    if (engine === 'sqlite') {
      const db = new DatabaseSync(url.slice('sqlite:'.length), { timeout: 5_000 })
      db.prepare('update groups set member_count = $count where id = $id').run({ count, id })
      db.close()
      return
    }
    const client = await MongoClient.connect(url)
    const groups = client.db(databaseName(url)).collection<{ _id: string }>(COLLECTIONS.groups)
    await groups.updateOne({ _id: id }, { $set: { memberCount: count } })
    await client.close()
  }

  it('group_not_found: 404 in a path, 422 in a body', async () => {
    const endpoint = await fixture.pulledEndpoint()
    expectProblem(await request('GET', `/groups/${NO_GROUP}`), 404, 'group_not_found')
    expectProblem(await endpoint.post({ group: NO_GROUP }), 422, 'group_not_found', {
      errors: [{ path: '/group', message: `no group has the id ${NO_GROUP}` }],
    })
  })

  it('group_closed: names the state', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const group = await create()
    await request('POST', `/groups/${group}/close`)
    expectProblem(await endpoint.post({ group }), 409, 'group_closed', {
      detail: `group ${group} is succeeded`,
    })
  })

  it('group_full: more than 1,000,000 jobs, but a batch fills it', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const group = await create()
    await setMemberCount(group, MAX_MEMBERS - 2)
    const job = { endpoint: endpoint.name, payload: 1, group }
    const { body } = await request('POST', '/jobs/batch', { jobs: [job, job, job] })
    const outcomes = body.items.map(({ status, error }: Body) => error?.code ?? status)
    expect(outcomes).toEqual([201, 201, 'group_full'])
    expectProblem(await endpoint.post({ group }), 409, 'group_full')
  })

  it('group_open: a job that depends on a group which takes further jobs', async () => {
    const endpoint = await fixture.pulledEndpoint()
    const group = await create()
    expectProblem(await endpoint.post({ dependsOn: [group] }), 409, 'group_open')
  })

  it('group_state_conflict: names the state, and those that the request needs', async () => {
    const group = await create()
    expectProblem(await request('DELETE', `/groups/${group}`), 409, 'group_state_conflict', {
      detail: 'the group is open; delete needs one that is succeeded or failed',
    })
  })
})
