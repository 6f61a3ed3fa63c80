// posthorn retry and posthorn cancel change the jobs that the user named or that match, and no
// others.
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'
import { openShell, type Shell } from './command-line.ts'
import { startInterceptingProxy } from './intercepting-proxy.ts'

const DEADLINE = { timeout: 60_000 }
const UNKNOWN_JOB = 'job_00000000000000000000000000'

describe('retry and cancel', () => {
  let posthorn: Deployment
  let receiver: Receiver
  let shell: Shell
  let name = ''
  let count = 0

  beforeAll(async () => {
    receiver = await startReceiver({ body: '{"pages":3}' })
    posthorn = deploy('sqlite')
    await posthorn.startApi()
    await posthorn.startWorker()
    shell = openShell({ POSTHORN_URL: posthorn.url() })
  })
  afterAll(async () => {
    await shell.close()
    await posthorn.close()
    await receiver.close()
  })
  beforeEach(async () => {
    receiver.answerWith({ body: '{"pages":3}' })
    name = `invoice-${++count}`
    await posthorn.endpoint(name, receiver.url)
  })

  const enqueued = async (more: object = {}) =>
    (await posthorn.request('POST', '/jobs', { endpoint: name, payload: 1, ...more })).body.id

  /** Enqueues this many jobs with one tag that are not due yet. */
  async function enqueueMany(jobCount: number, tag: string): Promise<void> {
    for (let left = jobCount; left > 0; left -= 1_000) {
      const one = { endpoint: name, payload: 1, delay: '1h', tags: [tag] }
      const jobs = Array.from({ length: Math.min(left, 1_000) }, () => one)
      expect((await posthorn.request('POST', '/jobs/batch', { jobs })).status).toBe(200)
    }
  }

  it('by ids: one that is refused does not keep the others', async () => {
    const [first, second] = [await enqueued({ delay: '1h' }), await enqueued({ delay: '1h' })]
    const { code, stdout, stderr } = await shell.call(['cancel', first, UNKNOWN_JOB, second])
    expect(code).toBe(1)
    // The newest job comes first, so that the cancel of one job lets no other start.
    expect(stdout.trimEnd().split('\n')).toEqual([`${second} cancelled`, `${first} cancelled`])
    expect(stderr).toBe(`no job has the id "${UNKNOWN_JOB}"\n`)
    expect((await shell.call(['retry', first])).code).toBe(0)
    await posthorn.job(first, 'succeeded')
    const refused = await shell.call(['retry', first])
    expect(refused).toMatchObject({ code: 1, stdout: '' })
    expect(refused.stderr).toMatch(new RegExp(`^${first}: the job is succeeded; .*\\n$`))
  })

  it('by filter: all are changed, however many, and none twice', DEADLINE, async () => {
    await enqueueMany(1_150, 'july')
    const filter = ['--endpoint', name, '--tag', 'july']
    const dry = await shell.call(['cancel', ...filter, '--dry-run'])
    expect(dry.stdout).toBe('1150 would be cancelled.\n')
    const cancelled = await shell.call(['cancel', ...filter])
    expect(cancelled).toEqual({ code: 0, stdout: '1150 cancelled.\n', stderr: '' })
    // The jobs are dead again while the command still retries others: it must retry each only once.
    receiver.answerWith(400)
    expect((await shell.call(['retry', ...filter])).stdout).toBe('1150 queued again.\n')
    await until(async () => {
      const { counts } = (await posthorn.request('GET', `/endpoints/${name}`)).body
      return counts.queued + counts.running === 0
    }, 30_000)
    const { stdout } = await shell.call(['jobs', ...filter, '--limit', '2000', '--json'])
    const items = JSON.parse(stdout).items as { state: string; attemptCount: number }[]
    expect(items).toHaveLength(1_150)
    expect(items.filter((one) => one.state !== 'dead' || one.attemptCount !== 1)).toEqual([])
  })

  it('by ids: a job that depends on another is retried after it, and says what it waives', async () => {
    receiver.answerWith(422)
    const dead = await enqueued()
    const second = await enqueued({ dependsOn: [dead] })
    const third = await enqueued({ dependsOn: [second] })
    await posthorn.job(third, 'dead')
    receiver.answerWith({ body: '{"pages":3}' })
    const byFilter = ['--endpoint', name, '--failure-reason', 'dependency_failed']
    const left = await shell.call(['retry', ...byFilter])
    expect(left).toMatchObject({ code: 0, stdout: '0 queued again.\n' })
    expect(left.stderr).toContain('2 were not retried')
    const { stdout } = await shell.call(['retry', third, second])
    expect(stdout.trimEnd().split('\n')).toEqual([
      `${second} queued again; it does not wait for ${dead}`,
      `${third} queued again`,
    ])
    await posthorn.job(third, 'succeeded')
  })

  it('by ids: a job is retried with those that died because of it', async () => {
    receiver.answerWith(422)
    const dead = await enqueued()
    const second = await enqueued({ dependsOn: [dead] })
    const third = await enqueued({ needs: { a: second } })
    const other = await enqueued()
    const both = await enqueued({ dependsOn: [dead, other] })
    for (const id of [third, both, other]) await posthorn.job(id, 'dead')
    receiver.answerWith({ body: '{"pages":3}' })
    const { stdout } = await shell.call(['retry', dead, '--with-dependents'])
    expect(stdout).toBe(
      `${dead} queued again, with 2 that died because of it; still dead because of others: ${both}\n`,
    )
    await posthorn.job(third, 'succeeded')
    const words = ['retry', '--endpoint', name, '--with-dependents']
    expect(await shell.call(words)).toMatchObject({ code: 2 })
  })

  it('by filter: an ordering key runs again from its first job on', DEADLINE, async () => {
    await posthorn.request('POST', `/endpoints/${name}/pause`)
    // Two groups: jobs that are dead, and jobs that are cancelled.
    for (let batch = 0; batch < 2; batch++) {
      const jobs = Array.from({ length: 600 }, (_, i) => {
        const expiry = i % 2 === 0 ? {} : { expiresIn: '1s' }
        return { endpoint: name, payload: batch * 600 + i, orderingKey: 'k', ...expiry }
      })
      expect((await posthorn.request('POST', '/jobs/batch', { jobs })).status).toBe(200)
    }
    await until(async () => {
      const { counts } = (await posthorn.request('GET', `/endpoints/${name}`)).body
      return counts.queued === 600
    }, 30_000)
    expect((await shell.call(['cancel', '--endpoint', name])).stdout).toBe('600 cancelled.\n')
    await posthorn.request('POST', `/endpoints/${name}/resume`)
    const before = receiver.requests.length
    expect((await shell.call(['retry', '--endpoint', name])).stdout).toBe('1200 queued again.\n')
    await receiver.waitFor(({ length }) => length === before + 1_200, 30_000)
    const order = receiver.requests.slice(before).map(({ body }) => Number(body))
    expect(order).toEqual(order.map((_, i) => i))
  })

  it('leave the dead job of a deleted endpoint, which stats counts', async () => {
    await enqueued({ delay: '1h' })
    await shell.call(['endpoints', 'delete', name, '--force', '--yes'])
    await until(async () => {
      const { deletedEndpoints = [] } = (await posthorn.request('GET', '/stats')).body
      return deletedEndpoints.some((one: { name: string; dead: number }) => one.name === name)
    }, 20_000)
    const { stdout } = await shell.call(['stats'])
    expect(stdout).toContain(`${name} was deleted: 1 dead job is left\n`)
  })

  it('find jobs of each state that is given, as jobs does', DEADLINE, async () => {
    const left = await enqueued({ delay: '1h' })
    await shell.call(['cancel', await enqueued({ delay: '1h' })])
    await posthorn.job(await enqueued(), 'succeeded')
    const states = ['--state', 'cancelled', '--state', 'queued']
    const { stdout } = await shell.call(['jobs', '--endpoint', name, ...states, '--json'])
    const items = JSON.parse(stdout).items as { id: string; state: string }[]
    expect(items.map(({ state }) => state).toSorted()).toEqual(['cancelled', 'queued'])
    expect(items.map(({ id }) => id)).toContain(left)
  })

  it('by filter: goes on where a busy server broke off, and says so', DEADLINE, async () => {
    await enqueueMany(5, 'busy')
    let refusals = 0
    const proxy = await startInterceptingProxy(posthorn.url, async (method) =>
      method === 'POST' && refusals++ < 2 ? 503 : undefined,
    )
    const env = { POSTHORN_URL: proxy.url }
    const { code, stdout, stderr } = await shell.call(['cancel', '--tag', 'busy'], { env })
    proxy.close()
    expect({ code, stdout }).toEqual({ code: 0, stdout: 'At least 5 cancelled.\n' })
    expect(stderr).toContain('the store is busy; continuing in')
  })
})
