// The promise of a disk without room: 503 that says so, not ready while it lasts, ready after it.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmSync, statfsSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { until } from '../support/until.ts'

const folder = mkdtempSync(join(tmpdir(), 'posthorn-disk-'))
const isMounted = mount()
if (!isMounted) console.log('full-disk: skipped, to mount a small disk takes root')

function mount(): boolean {
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=8m', 'tmpfs', folder], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

describe.skipIf(!isMounted)('a full disk', () => {
  let posthorn: Deployment
  beforeAll(async () => {
    posthorn = deploy('sqlite', { STORE_URL: `sqlite:${folder}/posthorn.db` })
    await posthorn.startApi()
    const { status } = await posthorn.endpoint('work', 'http://127.0.0.1:3000/')
    expect(status).toBe(201)
  })
  afterAll(async () => {
    await posthorn.close()
    if (isMounted) execFileSync('umount', ['-l', folder])
    rmSync(folder, { recursive: true, force: true })
  })

  it('is named to clients and probes, and passes', async () => {
    const filler = join(folder, 'filler')
    const { bavail, bsize } = statfsSync(folder)
    writeFileSync(filler, Buffer.alloc(bavail * bsize))
    const job = { endpoint: 'work', payload: 'x'.repeat(50_000) }
    let refused = await posthorn.request('POST', '/jobs', job)
    await until(async () => {
      refused = await posthorn.request('POST', '/jobs', job)
      return refused.status !== 201
    })
    expect([refused.status, refused.body.code]).toEqual([503, 'store_unavailable'])
    expect(refused.body.detail).toMatch(/^the store cannot store anything: its disk is full/)
    expect(refused.body.detail).not.toContain(folder)
    const ready = await posthorn.request('GET', '/health/ready')
    expect(ready.status).toBe(503)
    expect(ready.body.checks).toEqual({ store: 'cannot store anything: its disk is full' })
    const { body: metrics } = await posthorn.request('GET', '/metrics')
    expect(metrics).toMatch(/^posthorn_store_up\{process="api"\} 0$/m)
    rmSync(filler)
    await until(async () => (await posthorn.request('GET', '/health/ready')).status === 200)
    expect((await posthorn.request('POST', '/jobs', job)).status).toBe(201)
  })
})
