// A setting contains the password of the store: no error at the start may print it.
import { randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { describe, expect, it } from 'vitest'
import { runPosthorn } from '../support/process.ts'

describe('a password in STORE_URL', () => {
  it.each(['api', 'worker'])(
    'is not printed by %s when the store is not there, or not usable',
    async (command) => {
      const closed = createServer()
      await new Promise<void>((resolve) => closed.listen(0, '127.0.0.1', resolve))
      const { port } = closed.address() as { port: number }
      closed.close()
      const urls = [
        `mongodb://user:canary-password@127.0.0.1:${port}/jobs`,
        'mongodb://user:canary-password@:x/jobs',
        'mongodb://user:canary-password@127.0.0.1/jobs?w=canary-password',
        'mongodb://user:canary-pass@word@127.0.0.1/jobs',
        'postgres://user:canary-password@127.0.0.1/jobs',
      ]
      await Promise.all(
        urls.map(async (STORE_URL) => {
          const ENCRYPTION_KEY = randomBytes(32).toString('base64')
          const one = runPosthorn([command], {
            STORE_URL,
            ENCRYPTION_KEY,
            PORT: '0',
            LOG_LEVEL: 'trace',
          })
          await once(one.child, 'close')
          expect([1, 2]).toContain(one.child.exitCode)
          const printed = one.stderr() + JSON.stringify(one.log)
          expect(printed).not.toBe('[]')
          expect(printed).not.toMatch(/canary|word@/)
        }),
      )
    },
  )
})
