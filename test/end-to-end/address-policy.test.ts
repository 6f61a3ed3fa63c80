// The promise of the address policy: with keys set, no delivery reaches a private address unless a
// setting names it.
import { afterEach, beforeEach, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'

const KEY = 'a-key-of-twenty-four-characters'
const LOOPBACK = '127.0.0.0/8'
const authorization = { authorization: `Bearer ${KEY}` }

let posthorn: Deployment
let receiver: Receiver
beforeEach(async () => {
  posthorn = deploy('sqlite', { API_KEYS: KEY })
  receiver = await startReceiver()
})
afterEach(async () => {
  await posthorn.close()
  await receiver.close()
})

const register = () =>
  posthorn.request('PUT', '/endpoints/near', { url: receiver.url }, authorization)

async function deliver() {
  const job = { endpoint: 'near', payload: {} }
  const { body } = await posthorn.request('POST', '/jobs', job, authorization)
  const read = await posthorn.request('GET', `/jobs/${body.id}?wait=20s`, undefined, authorization)
  return read.body
}

it('an endpoint on this machine is refused, and the response says what would allow it', async () => {
  await posthorn.startApi()
  const refused = await register()
  expect(refused.status).toBe(400)
  expect(refused.body.errors[0].path).toBe('/url')
  expect(refused.body.detail).toMatch(/127\.0\.0\.1.*ALLOWED_TARGETS/)
})

it('what the API allows and the worker does not is dead at once, and nothing connects', async () => {
  await posthorn.startApi({ ALLOWED_TARGETS: LOOPBACK })
  await posthorn.startWorker()
  expect((await register()).status).toBe(201)
  const job = await deliver()
  expect(job).toMatchObject({
    state: 'dead',
    failure: { reason: 'rejected' },
    attempts: [{ outcome: 'blocked', statusCode: null }],
  })
  expect(receiver.connectionCount()).toBe(0)
})

it('named in ALLOWED_TARGETS of both, it is delivered to', async () => {
  await posthorn.startApi({ ALLOWED_TARGETS: LOOPBACK })
  await posthorn.startWorker({ ALLOWED_TARGETS: LOOPBACK })
  expect((await register()).status).toBe(201)
  expect(await deliver()).toMatchObject({ state: 'succeeded' })
})

it('a worker that was there before the API in local mode delivers the first job', async () => {
  const api = await posthorn.startApi()
  const worker = await posthorn.startWorker()
  await api.stop()
  await posthorn.startApi({ API_KEYS: '' })
  await posthorn.endpoint('near', receiver.url)
  expect(await deliverWithoutKey()).toMatchObject({ state: 'succeeded' })
  expect(worker.child.exitCode).toBeNull()
})

async function deliverWithoutKey() {
  const { body } = await posthorn.request('POST', '/jobs', { endpoint: 'near', payload: {} })
  return posthorn.job(body.id, 'succeeded', 'dead')
}
