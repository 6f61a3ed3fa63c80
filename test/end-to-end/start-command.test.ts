// The promise of one command: posthorn start runs both processes, and states clearly why it cannot.
import { spawn, spawnSync } from 'node:child_process'
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs'
import { createServer, type Server } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { DatabaseSync } from 'node:sqlite'
import { afterEach, beforeEach, describe, expect, it } from 'vitest'
import { COMPILE_CACHE, type Process, runPosthorn } from '../support/process.ts'
import { until } from '../support/until.ts'

const ROOT = join(import.meta.dirname, '../..')
const CLI = join(ROOT, 'cli/posthorn.ts')

let directory: string
const started: Process[] = []
const start = (words: string[], env: Record<string, string> = {}) => {
  const one = runPosthorn(words, { PORT: '0', ...env }, directory)
  started.push(one)
  return one
}

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'posthorn-test-'))
})
afterEach(async () => {
  await Promise.all(started.splice(0).map((one) => one.stop()))
  rmSync(directory, { recursive: true, force: true })
})

const childrenOf = (one: Process) => childrenOfPid(one.child.pid as number)

function childrenOfPid(pid: number): number[] {
  const { stdout } = spawnSync('pgrep', ['-P', String(pid)])
  return stdout.toString().split('\n').filter(Boolean).map(Number)
}

/** The command line of a process; empty if the process has ended. */
function wordsOf(pid: number): string[] {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0').slice(0, -1)
  } catch {
    return []
  }
}

/** The first of so many ports in a row that are free. */
async function freePort(count = 1): Promise<number> {
  const first = createServer().listen(0, '127.0.0.1')
  await until(() => first.listening)
  const { port } = first.address() as { port: number }
  const others: (Server | null)[] = []
  for (let i = 1; i < count; i++) others.push(await listening(port + i))
  for (const server of [first, ...others]) {
    if (server !== null) await new Promise((resolve) => server.close(resolve))
  }
  return others.includes(null) ? freePort(count) : port
}

/** null: the port is in use. */
function listening(port: number): Promise<Server | null> {
  return new Promise((resolve) => {
    const server = createServer()
    server.once('error', () => resolve(null))
    server.listen(port, '127.0.0.1', () => resolve(server))
  })
}

const descendantsOf = (pid: number): number[] =>
  childrenOfPid(pid).flatMap((child) => [child, ...descendantsOf(child)])

const isAlive = (pid: number) => {
  try {
    process.kill(pid, 0)
    return true
  } catch {
    return false
  }
}

describe('posthorn api', () => {
  it('whose own instruction failed ends, so that it can be started again', async () => {
    const api = start(['api'])
    await api.logged('api.listening')
    api.child.kill('SIGBUS')
    await until(() => api.child.signalCode === 'SIGBUS')
  })
})

describe('posthorn worker', () => {
  it('that is started before the API waits for the store', async () => {
    const worker = start(['worker'])
    await start(['api']).logged('api.listening')
    await worker.logged('worker.started')
  })
})

describe('posthorn start', () => {
  it('says where it listens, where it stores, who may ask, and what to type next', async () => {
    const one = start(['start'])
    const { url } = await one.logged('api.listening')
    await until(() => one.stderr().includes('curl'))
    expect(one.stderr()).toContain(`API        ${url}`)
    expect(one.stderr()).toContain('Store      sqlite:./data/posthorn.db')
    expect(one.stderr()).toContain('local mode')
    expect(one.stderr()).not.toMatch(/warning/i)
    const ready = await fetch(`${url}/health/ready`)
    expect(await ready.json()).toEqual({ status: 'ok', checks: { store: 'ok' } })
    expect(statSync(join(directory, 'data/posthorn.db')).mode & 0o777).toBe(0o600)
    expect(statSync(join(directory, 'data')).mode & 0o777).toBe(0o700)
  })

  it('types the key into its commands by the name of a variable, never itself', async () => {
    const key = 'a-key-of-twenty-four-characters'
    const one = start(['start'], { API_KEYS: key })
    await until(() => one.stderr().includes('curl'))
    const commands = one
      .stderr()
      .split('\n')
      .filter((line) => line.includes('curl '))
    expect(commands).toHaveLength(2)
    for (const line of commands) expect(line).toContain('-H "Authorization: Bearer $API_KEY"')
    expect(one.stderr()).not.toContain(key)
  })

  it('starts a crashed process again, and ends both when asked to stop', async () => {
    const one = start(['start'])
    await until(() => one.stderr().includes('curl'))
    // A log line is written a moment later, and a process that is killed may never write it.
    await Promise.all(['api.listening', 'worker.started'].map((msg) => one.logged(msg)))
    const before = childrenOf(one)
    for (const pid of before) process.kill(pid, 'SIGKILL')
    const count = (msg: string) => one.log.filter((line) => line.msg === msg).length
    await until(() => count('api.listening') === 2 && count('worker.started') === 2)
    expect(one.stderr()).toContain('posthorn worker ended (SIGKILL); starting it again')
    const after = childrenOf(one)
    expect(await one.stop()).toBe(0)
    expect(after.filter(isAlive)).toEqual([])
    expect(one.log.map(({ msg }) => msg)).toEqual(
      expect.arrayContaining(['api.stopped', 'worker.stopped']),
    )
  })

  it('killed itself, leaves no process behind', async () => {
    const one = start(['start'])
    await until(() => one.stderr().includes('curl'))
    const children = childrenOf(one)
    await one.stop('SIGKILL')
    await until(() => !children.some(isAlive))
  })

  it('under npm, ends when npm is ended', async () => {
    const npm = spawn('npm', ['start', '--prefix', ROOT], {
      env: { ...process.env, PORT: '0', STORE_URL: `sqlite:${directory}/posthorn.db` },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let stderr = ''
    npm.stderr.on('data', (chunk) => {
      stderr += chunk
    })
    await until(() => stderr.includes('curl'))
    const family = descendantsOf(npm.pid as number)
    expect(family.length).toBeGreaterThanOrEqual(3)
    npm.kill('SIGTERM')
    await until(() => !family.some(isAlive))
  })

  it.each(['api', 'worker'])('%s ends also when the reader of its log is gone', async (command) => {
    // A worker opens the store that an API has created.
    if (command === 'worker') await start(['api']).logged('api.listening')
    const one = start([command])
    await one.logged(command === 'api' ? 'api.listening' : 'worker.started')
    one.child.stdout?.destroy()
    expect(await one.stop()).toBe(0)
  })

  it.each([
    ['whose reader has seen enough', '"$0" "$1" start 2>&1 | head -1'],
    ['on a full disk', 'exec "$0" "$1" start >/dev/full 2>&1'],
    ['whose terminal is gone', `exec script -qec "setsid -w '$0' '$1' start" /dev/null`],
  ])('%s goes on, and starts a worker that was killed again', async (_, line) => {
    const port = String(await freePort())
    const shell = spawn('bash', ['-c', line, process.execPath, CLI], {
      env: {
        ...{ PATH: process.env.PATH, NODE_COMPILE_CACHE: COMPILE_CACHE },
        ...{ PORT: port, STORE_URL: `sqlite:${directory}/posthorn.db` },
      },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    shell.stdout.resume()
    const ask = async (path: string) =>
      JSON.parse(await (await fetch(`http://127.0.0.1:${port}${path}`)).text())
    /** How many workers have reported. A killed worker stays in the list for a while. */
    const isUp = (count: number) =>
      ask('/workers').then(
        ({ items }) => items.length === count,
        () => false,
      )
    await until(() => isUp(1))
    const family = [shell.pid as number, ...descendantsOf(shell.pid as number)]
    const [supervisor] = family.filter(
      (pid) => wordsOf(pid).at(-1) === 'start' && wordsOf(pid)[1] === CLI,
    )
    if (line.includes('script')) process.kill(shell.pid as number, 'SIGKILL')
    const [worker] = childrenOfPid(supervisor as number).filter(
      (pid) => wordsOf(pid).at(-1) === 'worker',
    )
    process.kill(worker as number, 'SIGKILL')
    await until(() => isUp(2))
    expect(await ask('/health/ready')).toMatchObject({ status: 'ok' })
    expect(isAlive(supervisor as number)).toBe(true)
    process.kill(supervisor as number, 'SIGTERM')
    await until(() => !family.some(isAlive))
  })

  it('listens on an IPv6 address, with or without its brackets', async () => {
    for (const HOST of ['[::1]', '::1']) {
      const { url } = await start(['api'], { HOST }).logged('api.listening')
      expect(url).toMatch(/^http:\/\/\[::1\]:\d+$/)
      expect((await fetch(`${url}/health/ready`)).status).toBe(200)
    }
  })

  it('reads .env', async () => {
    // Windows writes a byte order mark, which is not part of the first name.
    writeFileSync(join(directory, '.env'), '\ufeffSTORE_URL="sqlite:./elsewhere.db\n"\r\n')
    const one = start(['start'])
    await until(() => one.stderr().includes('Store      sqlite:./elsewhere.db\n'))
    expect(existsSync(join(directory, 'elsewhere.db'))).toBe(true)
  })
})

/** Up to five processes start at the same time, which takes long on a busy machine. */
const START_DEADLINE_MS = 45_000

describe('posthorn start --workers', { timeout: 90_000 }, () => {
  const count = (one: Process, msg: string) => one.log.filter((line) => line.msg === msg).length
  const workersOf = (one: Process) =>
    childrenOf(one).filter((pid) => wordsOf(pid).at(-1) === 'worker')

  it('runs so many workers, starts one that was killed again, and ends all', async () => {
    const one = start(['start', '--workers', '3'])
    await until(() => one.stderr().includes('curl'), START_DEADLINE_MS)
    await until(() => count(one, 'worker.started') === 3, START_DEADLINE_MS)
    const before = workersOf(one)
    expect(before).toHaveLength(3)
    const ids = new Set(
      one.log.filter(({ msg }) => msg === 'worker.started').map((line) => line.workerId),
    )
    expect(ids.size).toBe(3)
    process.kill(before[1] as number, 'SIGKILL')
    await until(() => count(one, 'worker.started') === 4, START_DEADLINE_MS)
    expect(one.stderr()).toContain('posthorn worker ended (SIGKILL); starting it again')
    const after = workersOf(one)
    expect(after).toEqual(expect.arrayContaining([before[0], before[2]]))
    expect(after).toHaveLength(3)
    const all = childrenOf(one)
    expect(await one.stop()).toBe(0)
    expect(all.filter(isAlive)).toEqual([])
    await until(() => count(one, 'worker.stopped') === 3 && count(one, 'api.stopped') === 1)
  })

  it('asked twice to stop, kills them all', async () => {
    const one = start(['start', '--workers', '2'])
    await until(() => one.stderr().includes('curl'), START_DEADLINE_MS)
    const all = childrenOf(one)
    expect(all).toHaveLength(3)
    // A stopped process does not act on the first signal.
    for (const pid of all) process.kill(pid, 'SIGSTOP')
    one.kill('SIGTERM')
    one.kill('SIGINT')
    await until(() => one.child.exitCode !== null)
    expect(one.child.exitCode).toBe(0)
    expect(all.filter(isAlive)).toEqual([])
  })

  it('gives each worker an id and a port of its own', async () => {
    const port = await freePort(2)
    const env = { WORKER_ID: 'blue', WORKER_PORT: String(port) }
    const one = start(['start', '--workers', '2'], env)
    await until(() => count(one, 'worker.started') === 2, START_DEADLINE_MS)
    const started = one.log.filter(({ msg }) => msg === 'worker.started')
    expect(started.map(({ workerId, url }) => [workerId, url]).sort()).toEqual([
      ['blue-1', `http://127.0.0.1:${port}`],
      ['blue-2', `http://127.0.0.1:${port + 1}`],
    ])
    for (const { url } of started) expect((await fetch(`${url}/health/live`)).status).toBe(200)
  })

  it('of which one cannot start, starts none', async () => {
    const port = await freePort(2)
    const taken = createServer().listen(port + 1, '127.0.0.1')
    await until(() => taken.listening)
    const one = start(['start', '--workers', '2'], { WORKER_PORT: String(port) })
    await until(() => one.child.exitCode !== null, START_DEADLINE_MS)
    expect(one.child.exitCode).toBe(1)
    expect(one.stderr()).toMatch(/cannot listen: EADDRINUSE: .*HOST and WORKER_PORT/)
    expect(one.stderr()).not.toContain('curl')
    await new Promise((resolve) => taken.close(resolve))
  })
})

describe('what cannot start says why, and exits', () => {
  async function expectFailure(
    words: string[],
    env: Record<string, string>,
    code: number,
    says: RegExp,
  ) {
    const one = start(words, env)
    await until(() => one.child.exitCode !== null)
    expect(one.child.exitCode).toBe(code)
    expect(one.stderr()).toMatch(says)
    expect(one.stderr()).not.toMatch(/\n\s+at /)
  }

  it.each([
    ['a wrong setting', { POLL_INTERVAL: 'soon' }, /POLL_INTERVAL is "soon"; expected a duration/],
    ['an open door without a key', { HOST: '0.0.0.0' }, /HOST is "0.0.0.0".*API_KEYS/s],
    ['a wrong target', { ALLOWED_TARGETS: '10.0.0.0/99' }, /ALLOWED_TARGETS.*10\.0\.0\.0\/99/s],
  ])('%s: 2', async (_, env, says) => {
    await expectFailure(['api'], env, 2, says)
    await expectFailure(['start'], env, 2, says)
  })

  it.each(['0', '65', '-1', '1.5', '2e0', 'two', '', ' 2', '99999999999999999999'])(
    '--workers=%j: 2',
    async (count) => {
      const says = /--workers is ".*"; expected a whole number from 1 to 64/
      await expectFailure(['start', `--workers=${count}`], {}, 2, says)
    },
  )

  it('a setting that does not suffice for several workers: 2, before anything is started', async () => {
    const port = { WORKER_PORT: '65535' }
    await expectFailure(['start', '--workers', '2'], port, 2, /WORKER_PORT is "65536"/)
    const id = { WORKER_ID: 'x'.repeat(127) }
    await expectFailure(['start', '--workers', '2'], id, 2, /WORKER_ID is "x+-1"/)
    expect(existsSync(join(directory, 'data'))).toBe(false)
  })

  it('a .env that is not text: 2', async () => {
    writeFileSync(join(directory, '.env'), 'STORE_URL=sqlite:./elsewhere.db\n', 'utf16le')
    await expectFailure(['start'], {}, 2, /\.env is not UTF-8 text/)
  })

  it('a certificate file that is not there, or none: 2', async () => {
    await expectFailure(['api'], { EXTRA_CA_CERTS: './no.pem' }, 2, /EXTRA_CA_CERTS.*ENOENT/)
    await expectFailure(['worker'], { EXTRA_CA_CERTS: './no.pem' }, 2, /EXTRA_CA_CERTS.*ENOENT/)
    writeFileSync(join(directory, 'empty.pem'), 'hello')
    await expectFailure(['worker'], { EXTRA_CA_CERTS: './empty.pem' }, 2, /EXTRA_CA_CERTS/)
  })

  it('an unknown command: 2', async () => {
    await expectFailure(['fly'], {}, 2, /has no command "fly"/)
  })

  it('a port in use: 1', async () => {
    const server = createServer().listen(0, '127.0.0.1')
    await until(() => server.listening)
    const { port } = server.address() as { port: number }
    await expectFailure(['start'], { PORT: String(port) }, 1, /cannot listen.*HOST and PORT/)
    await start(['api']).logged('api.listening')
    const taken = { WORKER_PORT: String(port) }
    await expectFailure(['worker'], taken, 1, /cannot listen.*HOST and WORKER_PORT/)
    server.close()
  })

  it('a process that is killed before it is ready: 1', async () => {
    const api = start(['api'])
    await api.logged('api.listening')
    await api.stop()
    // With this lock no process gets ready.
    const lock = new DatabaseSync(join(directory, 'data/posthorn.db'))
    lock.exec('begin immediate')
    const one = start(['start', '--workers', '2'])
    await until(() => childrenOf(one).length === 1)
    process.kill(childrenOf(one)[0] as number, 'SIGKILL')
    await until(() => one.child.exitCode !== null)
    expect(one.child.exitCode).toBe(1)
    expect(one.stderr()).toContain('posthorn api was killed by SIGKILL before it was ready')
    lock.close()
  })

  it('an unknown host: 2', async () => {
    const env = { HOST: 'no-such-host.invalid', API_KEYS: 'a-key-of-twenty-four-characters' }
    await expectFailure(['api'], env, 2, /HOST is "no-such-host\.invalid", which does not resolve/)
  })

  it('a store that is not there, and is not to be created: 1', async () => {
    for (const words of [['worker'], ['api', '--existing-store']]) {
      const says =
        /there is no store at .*posthorn\.db, and this process does not create one\. .* start the API first, without --existing-store/
      await expectFailure(words, {}, 1, says)
    }
    expect(existsSync(join(directory, 'data'))).toBe(false)
  })

  it('a store that is not one: 1', async () => {
    writeFileSync(
      join(directory, 'text.db'),
      'this is no database, whatever its name may say '.repeat(99),
    )
    await expectFailure(['api'], { STORE_URL: 'sqlite:./text.db' }, 1, /text\.db/)
    writeFileSync(join(directory, 'empty.db'), '')
    await expectFailure(
      ['api'],
      { STORE_URL: 'sqlite:./empty.db' },
      1,
      /empty\.db is an empty file/,
    )
    const long = `${'n'.repeat(240)}.db`
    await expectFailure(['api'], { STORE_URL: `sqlite:./${long}` }, 1, /path .* is too long/)
    mkdirSync(join(directory, 'folder.db'))
    await expectFailure(['api'], { STORE_URL: 'sqlite:./folder.db' }, 1, /folder\.db/)
  })

  it('a MongoDB without a key for secrets: 2; one that does not respond: 1', async () => {
    const url = 'mongodb://127.0.0.1:9/posthorn?directConnection=true'
    for (const process of ['api', 'worker', 'start']) {
      await expectFailure([process], { STORE_URL: url }, 2, /ENCRYPTION_KEY must be set/)
    }
    const key = Buffer.alloc(32, 7).toString('base64')
    await expectFailure(['worker'], { STORE_URL: url, ENCRYPTION_KEY: key }, 1, /cannot start/)
  })
})
