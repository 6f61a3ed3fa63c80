// posthorn backup copies the store while it is in use, and the copy is a store.
import { existsSync, statSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'
import { openShell, type Shell } from './command-line.ts'

const DEADLINE = { timeout: 60_000 }
const JOB_COUNT = 300

let posthorn: Deployment
let receiver: Receiver
let shell: Shell
beforeAll(async () => {
  receiver = await startReceiver(({ path }) => (path === '/slow' ? 'hang' : 200))
  // Its secrets are sealed with the key file beside it.
  posthorn = deploy('sqlite', { ENCRYPTION_KEY: '', LEASE_DURATION: '2s' })
  await posthorn.startApi()
  await posthorn.startWorker()
  shell = openShell({ STORE_URL: posthorn.env.STORE_URL as string })
})
afterAll(async () => {
  await shell.close()
  await posthorn.close()
  await receiver.close()
})

describe('backup', () => {
  it('made while jobs come and go, is a store with all that came before', DEADLINE, async () => {
    const { secretHint } = (await posthorn.endpoint('invoice-pdf', receiver.url)).body
    await posthorn.endpoint('later', receiver.url)
    await posthorn.endpoint('slow', `${receiver.url}/slow`, { timeout: '10m' })
    const slow = (await posthorn.request('POST', '/jobs', { endpoint: 'slow', payload: 1 })).body.id
    await posthorn.job(slow, 'running')
    const ids: string[] = []
    for (let n = 0; n < JOB_COUNT; n++) {
      const job = {
        endpoint: n % 2 ? 'invoice-pdf' : 'later',
        payload: n,
        delay: n % 2 ? '0s' : '1h',
      }
      ids.push((await posthorn.request('POST', '/jobs', job)).body.id)
    }
    let isOver = false
    const goesOn = (async () => {
      for (let n = 0; !isOver; n++) {
        await posthorn.request('POST', '/jobs', { endpoint: 'invoice-pdf', payload: n })
      }
      return true
    })()
    const { code, stdout, stderr } = await shell.run(['backup', 'copy.db'])
    isOver = true
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    expect(await goesOn).toBe(true)
    expect(stdout).toContain('copy.db.key')
    for (const file of ['copy.db', 'copy.db.key']) {
      expect(statSync(join(shell.folder, file)).mode & 0o777).toBe(0o600)
    }
    expect(existsSync(join(shell.folder, 'copy.db.part'))).toBe(false)

    const copy = deploy('sqlite', {
      STORE_URL: `sqlite:${shell.folder}/copy.db`,
      ENCRYPTION_KEY: '',
      LEASE_DURATION: '2s',
    })
    await copy.startApi()
    await copy.startWorker()
    const endpoint = await copy.request('GET', '/endpoints/invoice-pdf')
    expect(endpoint.body).toMatchObject({ secretHint, url: receiver.url })
    for (const id of ids) expect((await copy.request('GET', `/jobs/${id}`)).status).toBe(200)
    // The secret can be opened: a delivery is signed with it.
    const ping = await copy.request('POST', '/endpoints/invoice-pdf/test')
    expect(ping.body).toMatchObject({ outcome: 'succeeded' })
    const waiting = await copy.request('POST', `/jobs/${ids[0]}/cancel`)
    expect(waiting.body.state).toBe('cancelled')
    // One that was running then is delivered again, once its lease is over.
    await until(async () => {
      const { attempts } = (await copy.request('GET', `/jobs/${slow}`)).body
      return attempts[0]?.outcome === 'lost'
    })
    await copy.job(slow, 'running')
    await copy.close()
  })

  it('refuses a file that is there, and a store that is not', async () => {
    shell.write('taken.db', 'something else')
    const taken = await shell.run(['backup', 'taken.db'])
    expect(taken).toMatchObject({ code: 1, stderr: expect.stringContaining('is there already') })
    const env = { STORE_URL: `sqlite:${shell.folder}/nothing.db` }
    const none = await shell.run(['backup', 'new.db'], { env })
    expect(none).toMatchObject({ code: 1, stderr: expect.stringContaining('there is no store') })
    expect(existsSync(join(shell.folder, 'nothing.db'))).toBe(false)
    shell.write('text.db', 'this is no database, whatever its name may say '.repeat(99))
    const text = await shell.run(['backup', 'new.db'], { env: { STORE_URL: 'sqlite:./text.db' } })
    expect(text.code).toBe(1)
    expect(text.stderr).not.toMatch(/\n\s+at /)
    expect(existsSync(join(shell.folder, 'new.db'))).toBe(false)
  })

  it('says how a store in MongoDB is copied', async () => {
    const env = { STORE_URL: 'mongodb://127.0.0.1:9/posthorn' }
    const { code, stderr } = await shell.run(['backup', 'new.db'], { env })
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining('mongodump') })
  })
})
