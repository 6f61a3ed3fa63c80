// The image and the compose file, as far as they can be checked without Docker: they agree with the
// settings, and the health check works.
import { spawnSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { parse } from 'yaml'
import { readConfig, SETTINGS } from '../src/config.ts'
import { type Deployment, deploy } from './support/deployment.ts'
import type { Process } from './support/process.ts'

const ROOT = join(import.meta.dirname, '..')
const read = (name: string) => readFileSync(join(ROOT, name), 'utf8')
const defaults = readConfig({})

/** Instructions by name, with continued lines joined: those of the last stage, and all. */
const instructions = read('Dockerfile')
  .replaceAll('\\\n', ' ')
  .split('\n')
  .filter((line) => line !== '' && !line.startsWith('#'))
  .map((line) => {
    const [, name = '', rest = ''] = /^(\w+)\s+(.*)$/.exec(line) ?? []
    return { name, rest: rest.trim() }
  })
const lastStage = instructions.slice(instructions.findLastIndex(({ name }) => name === 'FROM'))
const all = (name: string) => lastStage.filter((one) => one.name === name).map(({ rest }) => rest)

describe('Dockerfile', () => {
  it('copies only what is there, and all that the build and the package need', () => {
    const copied = instructions
      .filter(({ name, rest }) => name === 'COPY' && !rest.startsWith('--from'))
      .flatMap(({ rest }) => rest.split(/\s+/).slice(0, -1))
    expect(copied.filter((path) => !existsSync(join(ROOT, path)))).toEqual([])
    const { include } = JSON.parse(read('tsconfig.build.json'))
    expect(copied).toEqual(expect.arrayContaining([...include, 'dashboard', 'package-lock.json']))
  })

  it('runs the Node that package.json asks for, not as root', () => {
    const major = /\d+/.exec(JSON.parse(read('package.json')).engines.node)?.[0]
    const bases = instructions.filter(({ name }) => name === 'FROM').map(({ rest }) => rest)
    for (const base of bases) expect(base).toMatch(new RegExp(`^node:${major}\\b`))
    expect(all('USER')).toEqual(['node'])
  })

  it('listens where a container is reached, on the port that it names', () => {
    expect(all('ENV')).toContain('HOST=0.0.0.0')
    expect(all('EXPOSE')).toEqual([String(defaults.PORT)])
  })

  it('keeps the embedded store in a volume that the user of the image may write', () => {
    const [workdir = ''] = all('WORKDIR')
    const folder = join(workdir, defaults.STORE_URL.replace('sqlite:', ''), '..')
    expect(all('VOLUME')).toEqual([folder])
    const made = lastStage.findIndex(({ rest }) => rest.includes('chown node:node data'))
    const declared = lastStage.findIndex(({ name }) => name === 'VOLUME')
    // Changes after the VOLUME instruction would be lost.
    expect(made).toBeGreaterThan(0)
    expect(declared).toBeGreaterThan(made)
  })

  describe('its health check', () => {
    let posthorn: Deployment
    let api: Process
    beforeAll(async () => {
      posthorn = deploy('sqlite')
      api = await posthorn.startApi()
    })
    afterAll(() => posthorn.close())

    it('passes while the API is ready, and fails when it is gone', async () => {
      const [, words = '[]'] = /\bCMD (\[.*\])$/.exec(all('HEALTHCHECK')[0] ?? '') ?? []
      const [node, ...rest] = JSON.parse(words) as string[]
      expect(node).toBe('node')
      const env = { PORT: new URL(posthorn.url()).port }
      const check = () => spawnSync(process.execPath, rest, { env, timeout: 30_000 }).status
      expect(check()).toBe(0)
      await api.stop('SIGKILL')
      expect(check()).toBe(1)
    })
  })
})

describe('docker-compose.yml', () => {
  const { services } = parse(read('docker-compose.yml'), { merge: true })

  it('sets only what Posthorn reads, and PUBLIC_URL for async endpoints', () => {
    for (const name of ['api', 'worker']) {
      const { environment } = services[name]
      expect(Object.keys(environment).filter((one) => !Object.hasOwn(SETTINGS, one))).toEqual([])
      const [, url = ''] = /^\$\{PUBLIC_URL:-(.+)\}$/.exec(environment.PUBLIC_URL) ?? []
      expect(readConfig({ PUBLIC_URL: url }).PUBLIC_URL).toBe(url)
      // The URL names a service of this file, and the port that it listens on.
      expect(Object.keys(services)).toContain(new URL(url).hostname)
      expect(new URL(url).port).toBe(String(defaults.PORT))
    }
  })

  it('gives workers no health check that asks for an API', () => {
    expect(services.worker.healthcheck).toEqual({ disable: true })
    expect(services.api.healthcheck.test).toContain('node')
  })
})
