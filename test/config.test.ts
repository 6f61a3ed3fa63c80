import { describe, expect, it } from 'vitest'
import { ConfigError, readConfig } from '../src/config.ts'

describe('settings', () => {
  it('have defaults that need nothing', () => {
    expect(readConfig({})).toMatchObject({
      STORE_URL: 'sqlite:./data/posthorn.db',
      HOST: '127.0.0.1',
      PORT: 8080,
      API_KEYS: null,
      LEASE_DURATION: 30_000,
      POLL_INTERVAL: 250,
      RETENTION_DEAD: 30 * 86_400_000,
    })
  })

  it('an empty variable is one that is not set', () => {
    expect(readConfig({ PORT: '', API_KEYS: '' })).toMatchObject({ PORT: 8080, API_KEYS: null })
  })

  it.each([
    ['STORE_URL', 'postgres://x'],
    ['STORE_URL', 'sqlite:'],
    ['PORT', '80a'],
    ['PORT', '65536'],
    ['API_KEYS', 'short'],
    ['API_KEYS', ','],
    ['ENCRYPTION_KEY', 'c2hvcnQ='],
    ['MAX_BODY_BYTES', '99999999'],
    ['WORKER_CONCURRENCY', '0'],
    ['WORKER_ID', 'a b'],
    ['LEASE_DURATION', '999ms'],
    ['POLL_INTERVAL', '0.5s'],
    ['SHUTDOWN_GRACE', 'soon'],
    ['OUTBOX', 'no-dot'],
    ['OUTBOX', 'shop.system.users'],
    ['LOG_LEVEL', 'loud'],
  ])('%s=%s stops the start with a sentence that names it', (name, value) => {
    expect(() => readConfig({ [name]: value })).toThrow(ConfigError)
    expect(() => readConfig({ [name]: value })).toThrow(
      new RegExp(`^${name} is .+; expected .+\\.$`),
    )
  })

  it('an outbox is a collection of a MongoDB, and can not be had with SQLite', () => {
    const STORE_URL = 'mongodb://localhost/posthorn'
    const OUTBOX = 'shop.jobs.outbox'
    expect(readConfig({ STORE_URL, OUTBOX }).OUTBOX).toEqual({
      database: 'shop',
      collection: 'jobs.outbox',
    })
    expect(() => readConfig({ OUTBOX })).toThrow(/OUTBOX needs a store on MongoDB.*SQLite/)
  })

  it('all that is wrong is told at once, and no secret is printed', () => {
    const read = () => readConfig({ PORT: 'x', API_KEYS: 'hunter2', LOG_LEVEL: 'y' })
    expect(read).toThrow(/PORT.*API_KEYS.*LOG_LEVEL/s)
    expect(read).not.toThrow(/hunter2/)
  })
})
