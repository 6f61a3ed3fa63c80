// The published client: it works alone, on each version of Node that it promises, with types.
import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, it } from 'vitest'
import { installedNodes } from '../support/nodes.ts'
import { type Installed, installClient } from './installed.ts'

const OLDEST_MAJOR = 20

const nodes = installedNodes().filter(({ major }) => major >= OLDEST_MAJOR)

let installed: Installed
beforeAll(() => {
  installed = installClient()
})
afterAll(() => installed.remove())

const PROGRAM = `
import { Posthorn, PosthornError, VerificationError, verify } from 'posthorn/client'
const posthorn = new Posthorn({ url: 'http://127.0.0.1:1', maxTries: 1 })
const seen = []
await posthorn.get('job_1').catch((error) => seen.push(error instanceof PosthornError, error.code))
const secret = 'whsec_' + Buffer.alloc(32).toString('base64')
await verify({ headers: {}, body: '' }, secret).catch((error) =>
  seen.push(error instanceof VerificationError, error.code),
)
await import('posthorn').catch((error) => seen.push(error.code))
console.log(JSON.stringify(seen))
`

it.each(nodes)('it works on Node $version with nothing else installed', ({ path }) => {
  const program = installed.write('program.js', PROGRAM)
  const printed = execFileSync(path, [program]).toString()
  expect(JSON.parse(printed)).toEqual([
    true,
    'connection_failed',
    true,
    'missing_header',
    'ERR_PACKAGE_PATH_NOT_EXPORTED',
  ])
})

it('its types hold in a strict program, and refuse what the API would', () => {
  installed.write(
    'typed.ts',
    `
    import { type Delivery, type Job, Posthorn, verify } from 'posthorn/client'
    const posthorn = new Posthorn({ url: 'http://x', key: process.env.KEY })
    type N = { n: number }
    export const job: Promise<Job<N, string>> = posthorn.get<N, string>('id')
    export const delivery: Promise<Delivery<{ n: number }>> = verify(new Request('http://x'), 's')
    // @ts-expect-error a job needs an endpoint
    posthorn.enqueue({ payload: 1 })
    // @ts-expect-error and one payload, not two
    posthorn.enqueue({ endpoint: 'a', payload: 1, rawPayload: '1' })
    // @ts-expect-error a state is one of five
    posthorn.list({ state: 'done' })
    `,
  )
  expect(installed.typeErrors()).toBe('')
})

it('what the package exports is what it ships', () => {
  const manifest = JSON.parse(
    readFileSync(join(installed.folder, 'node_modules/posthorn/package.json'), 'utf8'),
  )
  const { types, default: code } = manifest.exports['./client']
  for (const path of [types, code]) {
    expect(existsSync(join(installed.folder, 'node_modules/posthorn', path))).toBe(true)
    expect(manifest.files).toContain(path.split('/')[1])
  }
  const openapi = manifest.exports['./openapi.json']
  expect(manifest.files).toContain(openapi.slice('./'.length))
})
