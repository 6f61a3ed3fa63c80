// The machine loses power while a worker delivers: nothing that was accepted is lost, and the
// receiver sees no fence of a job twice, nor a smaller one after a larger one.
import { afterAll, beforeAll, expect, test } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { keepFlushedState } from '../support/power-loss.ts'
import type { Process } from '../support/process.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'

const JOBS = 60
/** Of the jobs, when the power fails: some are not delivered yet, some are under way. */
const DELIVERED = 20
const SLOW_MS = 200

let posthorn: Deployment
let receiver: Receiver
beforeAll(async () => {
  receiver = await startReceiver({ delayMs: SLOW_MS })
  posthorn = deploy('sqlite', {
    ...{ LEASE_DURATION: '2s', SWEEP_INTERVAL: '200ms', WORKER_CONCURRENCY: '5' },
  })
})
afterAll(async () => {
  await posthorn.close()
  await receiver.close()
})

async function startAll(): Promise<Process[]> {
  return [await posthorn.startApi(), await posthorn.startWorker()]
}

test('two power losses: each job is done, and its fences only grow', {
  timeout: 60_000,
}, async () => {
  const path = (posthorn.env.STORE_URL as string).slice('sqlite:'.length)
  const ids: string[] = []
  const enqueue = async () => {
    const { body } = await posthorn.request('POST', '/jobs', { endpoint: 'work', payload: {} })
    ids.push(body.id)
  }
  let processes = await startAll()
  await posthorn.endpoint('work', receiver.url)
  for (let cuts = 0; cuts < 2; cuts++) {
    const jobs = Array.from({ length: JOBS }, () => ({ endpoint: 'work', payload: {} }))
    const { body } = await posthorn.request('POST', '/jobs/batch', { jobs })
    ids.push(...body.items.map(({ id }: { id: string }) => id))
    const restore = await keepFlushedState(path, enqueue)
    const before = receiver.requests.length
    await receiver.waitFor(({ length }) => length >= before + DELIVERED, 10_000)
    await Promise.all(processes.map((one) => one.stop('SIGKILL')))
    restore()
    processes = await startAll()
  }
  for (const id of ids) await posthorn.job(id, 'succeeded')

  const fences = new Map<string, number[]>()
  for (const { headers } of receiver.requests) {
    const id = headers['webhook-id'] as string
    fences.set(id, [...(fences.get(id) ?? []), Number(headers['posthorn-fence'])])
  }
  expect([...fences.keys()].sort()).toEqual([...new Set(ids)].sort())
  const ofRepeated = [...fences.values()].filter(({ length }) => length > 1)
  expect(ofRepeated.length).toBeGreaterThanOrEqual(DELIVERED)
  for (const ofJob of ofRepeated) expect(ofJob).toEqual([...new Set(ofJob)].sort((a, b) => a - b))
})
