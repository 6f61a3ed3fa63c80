// posthorn backup copies the store while it is in use, and the copy is a working store. posthorn
// vacuum returns free space to the system.
import { execFileSync } from 'node:child_process'
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { until } from '../support/until.ts'
import { openShell, type Shell } from './command-line.ts'

/** Whether the process may mount a file system, found by trying. */
function mayMount(): boolean {
  try {
    execFileSync('unshare', ['-m', 'mount', '-t', 'tmpfs', 'tmpfs', '/mnt'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}

const DEADLINE = { timeout: 60_000 }
const JOB_COUNT = 300

let posthorn: Deployment
let receiver: Receiver
let shell: Shell
beforeAll(async () => {
  receiver = await startReceiver(({ path }) => (path === '/slow' ? 'hang' : 200))
  // The key file beside the store encrypts its secrets.
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
    // A signed delivery shows that the secret can be decrypted.
    const ping = await copy.request('POST', '/endpoints/invoice-pdf/test')
    expect(ping.body).toMatchObject({ outcome: 'succeeded' })
    const waiting = await copy.request('POST', `/jobs/${ids[0]}/cancel`)
    expect(waiting.body.state).toBe('cancelled')
    // The job that was running during the copy is delivered again after its lease has expired.
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
    expect(taken).toMatchObject({ code: 1, stderr: expect.stringContaining('already exists') })
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

  /** A copy of a store that no process uses, with secrets and a key file. */
  async function copyAs(name: string): Promise<string> {
    if (!existsSync(join(shell.folder, 'quiet.db'))) {
      await posthorn.endpoint('sealed', receiver.url)
      expect((await shell.run(['backup', 'quiet.db'])).code).toBe(0)
    }
    for (const end of ['', '.key']) {
      copyFileSync(join(shell.folder, `quiet.db${end}`), join(shell.folder, `${name}${end}`))
    }
    return join(shell.folder, name)
  }

  /** The files without the side files that a read of the store creates. */
  const listed = () =>
    readdirSync(shell.folder).filter(
      (name) => !/^(damaged|foreign|two|five)\.db-(wal|shm)$/.test(name),
    )

  async function fails(store: string, target: string, says: RegExp, more = {}) {
    const before = listed()
    const env = { STORE_URL: `sqlite:${store}`, ...more }
    const { code, stdout, stderr } = await shell.run(['backup', target], { env })
    expect(stderr).toMatch(says)
    expect(stderr).not.toMatch(/\n\s+at /)
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' })
    expect(listed()).toEqual(before)
  }

  it('writes over nothing, and names what an interrupted run has left', async () => {
    const store = await copyAs('one.db')
    symlinkSync('nowhere', join(shell.folder, 'dangling.db'))
    await fails(store, 'dangling.db', /dangling\.db already exists/)
    shell.write('left.db-wal', 'of an older database')
    await fails(store, 'left.db', /left\.db-wal already exists/)
    shell.write('half.db.part', 'half of it')
    await fails(store, 'half.db', /half\.db\.part already exists: .*interrupted.*delete that file/)
    shell.write('third.db.part-wal', 'of another program')
    await fails(store, 'third.db', /third\.db\.part-wal already exists/)
    // No file with these names exists, and none may be created: SQLite would use it as its own.
    for (const end of ['-wal', '-shm', '-journal', '-WAL', '.key']) {
      const isRefused = new RegExp(`cannot have the name .*${end}, which ends in ${end}`, 'i')
      await fails(store, `two.db${end}`, isRefused)
    }
    shell.write('other.db.key', 'another key')
    await fails(store, 'other.db', /other\.db\.key already exists and is not the key/)
    // An earlier run was killed after it had copied the key. The next run continues.
    copyFileSync(`${store}.key`, join(shell.folder, 'again.db.key'))
    const again = await shell.run(['backup', 'again.db'], { env: { STORE_URL: `sqlite:${store}` } })
    expect(again).toMatchObject({ code: 0, stderr: '' })
    expect(again.stdout).toContain('again.db.key is the key')
    await fails(store, 'no/such/folder.db', /cannot be written: its folder does not exist/)
  })

  it('copies no store that is damaged or not one, nor one whose secrets its key does not open', async () => {
    const damaged = await copyAs('damaged.db')
    const bytes = readFileSync(damaged)
    // Damages pages behind the first one. The first page makes a file a database at all.
    writeFileSync(damaged, bytes.fill(0xee, 4_096 * 5, 4_096 * 8))
    await fails(damaged, 'new.db', /damaged\.db is damaged/)
    execFileSync(
      process.execPath,
      [
        ...[
          '-e',
          `new (require('node:sqlite').DatabaseSync)('foreign.db').exec('create table t (x)')`,
        ],
      ],
      { cwd: shell.folder },
    )
    await fails('./foreign.db', 'new.db', /foreign\.db is not a store of Posthorn/)
    const store = await copyAs('two.db')
    const other = Buffer.alloc(32, 1).toString('base64')
    await fails(store, 'new.db', /a key that ENCRYPTION_KEY does not hold/, {
      ENCRYPTION_KEY: other,
    })
    writeFileSync(`${store}.key`, `${other}\n`)
    await fails(store, 'new.db', /encrypted with a key/)
  })

  it('finds the key of a store that is reached by a symbolic link, and says when there is none', async () => {
    const store = await copyAs('three.db')
    symlinkSync(store, join(shell.folder, 'link.db'))
    const env = { STORE_URL: 'sqlite:./link.db' }
    const linked = await shell.run(['backup', 'linked.db'], { env })
    expect(linked).toMatchObject({ code: 0, stderr: '' })
    expect(linked.stdout).toContain('linked.db.key is the key')
    expect(readFileSync(join(shell.folder, 'linked.db.key'))).toEqual(readFileSync(`${store}.key`))
    const key = readFileSync(`${store}.key`, 'utf8')
    rmSync(`${store}.key`)
    const bare = await shell.run(['backup', 'bare.db'], { env })
    expect(bare).toMatchObject({ code: 0, stderr: expect.stringContaining('No key was copied') })
    expect(existsSync(join(shell.folder, 'bare.db.key'))).toBe(false)
    const given = await shell.run(['backup', 'given.db'], { env: { ...env, ENCRYPTION_KEY: key } })
    expect(given).toMatchObject({ code: 0, stderr: '' })
    expect(given.stdout).toContain('ENCRYPTION_KEY only')
  })

  it('asked to end, leaves a whole copy or nothing', async () => {
    const store = await copyAs('four.db')
    const typed = shell.start(['backup', 'ended.db'], { env: { STORE_URL: `sqlite:${store}` } })
    const part = join(shell.folder, 'ended.db.part')
    const target = join(shell.folder, 'ended.db')
    await until(() => existsSync(part) || existsSync(target))
    typed.signal('SIGTERM')
    const code = await typed.ended()
    const left = readdirSync(shell.folder).filter((name) => name.startsWith('ended.db'))
    expect(left).toEqual(code === 0 ? ['ended.db', 'ended.db.key'] : [])
  })

  it.skipIf(!mayMount())(
    'says that the target is full, and leaves nothing (needs root)',
    async () => {
      const small = join(shell.folder, 'small')
      mkdirSync(small)
      execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', small])
      try {
        await fails(await copyAs('five.db'), 'small/copy.db', /small\/copy\.db.*: the disk is full/)
        expect(readdirSync(small)).toEqual([])
      } finally {
        execFileSync('umount', [small])
      }
    },
  )

  it('says how a store in MongoDB is copied', async () => {
    const env = { STORE_URL: 'mongodb://127.0.0.1:9/posthorn' }
    const { code, stderr } = await shell.run(['backup', 'new.db'], { env })
    expect({ code, stderr }).toEqual({ code: 1, stderr: expect.stringContaining('mongodump') })
  })
})

describe('vacuum', () => {
  const vacuum = (env: Record<string, string>) => shell.run(['vacuum'], { env })
  const countIn = (path: string, pragma: string) => {
    const db = new DatabaseSync(path, { timeout: 5_000 })
    const count = Object.values(db.prepare(`pragma ${pragma}`).get() ?? {})[0] as number
    db.close()
    return count
  }

  /** Leaves free pages in the file, as a purge of jobs does. */
  function bloat(path: string): void {
    const db = new DatabaseSync(path, { timeout: 5_000 })
    db.exec(`begin immediate;
      with recursive n (i) as (select 1 union all select i + 1 from n where i < 3000)
      insert into payloads select -i, randomblob(1000) from n;
      delete from payloads where seq < 0; commit`)
    db.close()
  }

  it('gives all free pages back while the store is in use', DEADLINE, async () => {
    const path = (posthorn.env.STORE_URL as string).slice('sqlite:'.length)
    bloat(path)
    const before = countIn(path, 'page_count')
    const { code, stdout, stderr } = await vacuum({})
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' })
    const [, pages, bytes] = /^(\d+) pages \((\d+) bytes\)/.exec(stdout) ?? []
    expect(Number(pages)).toBeGreaterThan(500)
    expect(Number(bytes)).toBe(Number(pages) * 4_096)
    expect(countIn(path, 'page_count')).toBeLessThanOrEqual(before - 500)
    await posthorn.endpoint('vacuumed', receiver.url)
    const job = await posthorn.request('POST', '/jobs', { endpoint: 'vacuumed', payload: 1 })
    expect(await posthorn.job(job.body.id, 'succeeded')).toMatchObject({ attemptCount: 1 })
    expect(countIn(path, 'integrity_check')).toBe('ok')
  })

  it('says of a store in MongoDB, and of none, why it does nothing', async () => {
    const mongo = await vacuum({ STORE_URL: 'mongodb://127.0.0.1:9/posthorn' })
    expect(mongo).toMatchObject({ code: 1, stderr: expect.stringContaining('compact') })
    const none = await vacuum({ STORE_URL: `sqlite:${shell.folder}/nothing.db` })
    expect(none).toMatchObject({ code: 1, stderr: expect.stringContaining('there is no store') })
    expect(existsSync(join(shell.folder, 'nothing.db'))).toBe(false)
  })
})
