// posthorn groups: from the creation of a group to its deletion.
import { afterAll, beforeAll, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { openShell, type Shell } from './command-line.ts'

const DEADLINE = { timeout: 60_000 }

let posthorn: Deployment
let shell: Shell
beforeAll(async () => {
  posthorn = deploy('sqlite', { SWEEP_INTERVAL: '50ms' })
  await posthorn.startApi()
  shell = openShell({ POSTHORN_URL: posthorn.url() })
  for (const name of ['rows', 'alerts']) {
    await posthorn.request('PUT', `/endpoints/${name}`, { url: null })
  }
})
afterAll(async () => {
  await shell.close()
  await posthorn.close()
})

const groups = (...words: string[]) => shell.call(['groups', ...words])

it('are created, filled, cancelled, waited for, retried and deleted', DEADLINE, async () => {
  const created = await groups('create', '--name', 'import', '--notify', 'alerts')
  const id = created.stdout.trim()
  expect(id).toMatch(/^grp_/)
  expect((await shell.call(['enqueue', 'rows', '1', '--group', id])).code).toBe(0)
  const rows = (text: string) => text.split('\n').map((line) => line.trim().split(/ {2,}/))
  const shown = rows((await groups('get', id)).stdout)
  expect(shown).toContainEqual(['state', 'open'])
  expect(shown).toContainEqual(['queued', '1'])
  expect(shown).toContainEqual(['notices', 'alerts (all_final)'])
  expect((await shell.call(['jobs', '--group', id])).stdout.split('\n')).toHaveLength(3)
  expect((await groups('close', id)).stdout).toBe(`${id} is closed\n`)
  expect(await groups('wait', id, '--timeout', '10ms')).toMatchObject({ code: 4 })
  expect((await groups('cancel', id)).stdout).toMatch(/ is (cancelling|failed)\n$/)
  const waited = await groups('wait', id)
  expect(waited.code).toBe(1)
  expect(rows(waited.stdout)).toContainEqual(['cancelled', '1'])
  const listed = await groups('list', '--state', 'failed', '--name', 'import')
  expect(rows(listed.stdout)[1]?.slice(0, 4)).toEqual([id, 'failed', '100 %', '1'])
  expect((await groups('retry', id)).code).toBe(0)
  expect(await groups('delete', id, '--yes')).toMatchObject({ code: 1 })
  await groups('cancel', id)
  await groups('wait', id)
  expect((await groups('delete', id, '--yes')).stdout).toBe(`${id} is deleted\n`)
  expect(await groups('list', '--name', 'import')).toMatchObject({
    ...{ code: 0, stdout: '', stderr: 'No groups match.\n' },
  })
})

it('refuses a state and an event that there is not', async () => {
  expect(await groups('list', '--state', 'done')).toMatchObject({ code: 2 })
  expect(await groups('create', '--notify', 'alerts', '--when', 'never')).toMatchObject({ code: 2 })
})
