import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, it } from 'vitest'
import { ConfigError, fromSetting, readConfig, SETTINGS } from '../src/config.ts'
import { createAddressPolicy } from '../src/webhook/address-policy.ts'
import { endpointBody } from '../src/wire/endpoints.ts'

const API_KEY = 'a-key-of-twenty-four-characters'
const [KEY, OTHER_KEY] = [7, 8].map((byte) => Buffer.alloc(32, byte).toString('base64')) as [
  string,
  string,
]

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

  it('have ranges whose ends are the least and the most that is accepted', () => {
    const ranges = Object.entries(SETTINGS).flatMap(([name, { range }]) =>
      range === null ? [] : [{ name, ends: range.split(' to ') }],
    )
    expect(ranges).toContainEqual({ name: 'POLL_INTERVAL', ends: ['5ms', '1m'] })
    expect(ranges).toContainEqual({ name: 'MAX_BODY_BYTES', ends: ['1024', '8388608'] })
    for (const { name, ends } of ranges) {
      for (const end of ends) expect(readConfig({ [name]: end })).toHaveProperty(name)
      const [, most = ''] = ends
      const more = /^\d+$/.test(most) ? String(Number(most) + 1) : `${most}1ms`
      expect(() => readConfig({ [name]: more })).toThrow(`from ${ends.join(' to ')}`)
    }
  })

  it('an empty variable is one that is not set', () => {
    expect(readConfig({ PORT: '', API_KEYS: '' })).toMatchObject({ PORT: 8080, API_KEYS: null })
  })

  it.each([
    ['STORE_URL', 'postgres://x'],
    ['STORE_URL', 'sqlite:'],
    ['STORE_URL', 'sqlite:./data/posthorn.db-wal'],
    ['STORE_URL', 'sqlite:./data/posthorn.db-wal/'],
    ['STORE_URL', 'sqlite:./data/posthorn.db-WAL/.'],
    ['STORE_URL', 'sqlite:./data/posthorn.db-SHM'],
    ['STORE_URL', 'sqlite:./data/posthorn.db-journal'],
    ['STORE_URL', 'sqlite:./data/posthorn.db.key'],
    ['STORE_URL', 'sqlite::memory:'],
    ['STORE_URL', 'sqlite:~/jobs.db'],
    ['STORE_URL', 'sqlite:jobs.db?mode=ro'],
    ['STORE_URL', 'sqlite:file:jobs.db'],
    ['PORT', '80a'],
    ['PORT', '65536'],
    ['API_KEYS', 'short'],
    ['API_KEYS', ','],
    ['API_KEYS', 'a key with blanks in it, of length'],
    ['API_KEYS', '"a-key-of-twenty-four-characters"'],
    ['API_KEYS', 'ä-key-of-twenty-four-characters'],
    ['API_KEYS', `${API_KEY},${API_KEY}`],
    ['API_KEYS', `${API_KEY}\nshort`],
    ['API_KEYS', 'k'.repeat(257)],
    ['ENCRYPTION_KEY', 'c2hvcnQ='],
    ['ENCRYPTION_KEY', KEY.slice(0, -1)],
    ['ENCRYPTION_KEY', `"${KEY}"`],
    ['ENCRYPTION_KEY', `${KEY} ${OTHER_KEY}`],
    ['ENCRYPTION_KEY', `${KEY}junk`],
    ['ENCRYPTION_KEY', `${KEY},${KEY}`],
    // Base64 of 32 bytes whose unused last bits are not zero: Node decodes it to the same key.
    ['ENCRYPTION_KEY', `${'A'.repeat(42)}B=`],
    ['ENCRYPTION_KEY', 'correct horse battery staple, and so on and on'],
    ['ENCRYPTION_KEY', Buffer.alloc(32, 255).toString('base64url')],
    ['ALLOWED_TARGETS', ' , '],
    ['PUBLIC_URL', 'jobs.example.com'],
    ['PUBLIC_URL', 'ftp://jobs.example.com'],
    ['PUBLIC_URL', 'http:jobs.example.com'],
    ['PUBLIC_URL', 'http://a.example.com,http://b.example.com'],
    ['PUBLIC_URL', 'http://@jobs.example.com'],
    ['PUBLIC_URL', 'https://jobs.example.com/?'],
    ['PUBLIC_URL', 'https://jobs.example.com/#'],
    ['PUBLIC_URL', 'https://user@jobs.example.com'],
    ['PUBLIC_URL', 'https://:secret@jobs.example.com'],
    ['HOST', '  '],
    ['HOST', '127.0.0.1:80'],
    ['HOST', 'http://localhost'],
    ['HOST', 'two words'],
    ['MAX_BODY_BYTES', '99999999'],
    ['WORKER_CONCURRENCY', '0'],
    ['WORKER_ID', 'a b'],
    ['LEASE_DURATION', '999ms'],
    ['POLL_INTERVAL', '0.5s'],
    ['CHANGE_STREAM', 'yes'],
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

  it('an outbox is a collection of a MongoDB, and cannot be used with SQLite', () => {
    const STORE_URL = 'mongodb://localhost/posthorn'
    const OUTBOX = 'shop.jobs.outbox'
    expect(readConfig({ STORE_URL, OUTBOX }).OUTBOX).toEqual({
      database: 'shop',
      collection: 'jobs.outbox',
    })
    expect(() => readConfig({ OUTBOX })).toThrow(/OUTBOX needs a store on MongoDB.*SQLite/)
  })

  it('keys are separated by commas or line ends, and each is taken whole', () => {
    const keys = fc.uniqueArray(fc.uint8Array({ minLength: 32, maxLength: 32 }), {
      minLength: 1,
      maxLength: 4,
      selector: (bytes) => Buffer.from(bytes).toString('base64'),
    })
    const separator = fc.constantFrom(',', '\n', '\r\n', ' , ', ',\n', '\n\n')
    fc.assert(
      fc.property(keys, separator, fc.constantFrom('', ',', '\n', ' \r\n'), (all, between, end) => {
        const wanted = all.map((bytes) => Buffer.from(bytes))
        const apiKeys = wanted.map((key) => key.toString('hex'))
        const read = readConfig({
          ENCRYPTION_KEY: wanted.map((key) => key.toString('base64')).join(between) + end,
          API_KEYS: apiKeys.join(between) + end,
          ALLOWED_TARGETS: apiKeys.map((name) => `${name}:80`).join(between) + end,
        })
        expect(read.ENCRYPTION_KEY).toEqual(wanted)
        expect(read.API_KEYS).toEqual(apiKeys)
        expect(read.ALLOWED_TARGETS).toEqual(apiKeys.map((name) => `${name}:80`))
      }),
    )
  })

  it('PUBLIC_URL is what a handler can be sent: as the URL parser reads it', () => {
    const read = (PUBLIC_URL: string) => readConfig({ PUBLIC_URL }).PUBLIC_URL
    expect(read('https://Jöbs.Example/')).toBe('https://xn--jbs-sna.example')
    expect(read('HTTPS://jobs.example.com:443/Queue//')).toBe('https://jobs.example.com/Queue')
    expect(read('http://127.1:8080\n')).toBe('http://127.0.0.1:8080')
  })

  it('written with anything around or in it, a value is the clean one or stops the start', () => {
    const clean: [name: string, text: string][] = [
      ['STORE_URL', 'sqlite:./data/p.db'],
      ['STORE_URL', 'mongodb://localhost:27017/jobs?replicaSet=rs0'],
      ['HOST', '127.0.0.1'],
      ['PORT', '8080'],
      ['API_KEYS', API_KEY],
      ['PUBLIC_URL', 'https://jobs.example.com/queue'],
      ['ENCRYPTION_KEY', KEY],
      ['ALLOWED_TARGETS', '10.0.0.0/8'],
      ['EXTRA_CA_CERTS', './roots.pem'],
      ['MAX_BODY_BYTES', '2048'],
      ['WORKER_CONCURRENCY', '7'],
      ['WORKER_ID', 'worker-1'],
      ['WORKER_PORT', '9000'],
      ['LEASE_DURATION', '20s'],
      ['POLL_INTERVAL', '10ms'],
      ['SWEEP_INTERVAL', '2s'],
      ['SHUTDOWN_GRACE', '3s'],
      ['RETENTION', '1h30m'],
      ['RETENTION_DEAD', '2d'],
      ['OUTBOX', 'shop.outbox'],
      ['LOG_LEVEL', 'debug'],
    ]
    const read = (name: string, text: string): unknown => {
      const store = name === 'OUTBOX' ? { STORE_URL: 'mongodb://h/d' } : {}
      const config = readConfig({ ...store, [name]: text })
      // The processes use the setting in the same way at their start.
      const allowedTargets = config.ALLOWED_TARGETS ?? []
      fromSetting('ALLOWED_TARGETS', () =>
        createAddressPolicy({ allowedTargets, allowLoopback: false }),
      )
      return config[name as 'HOST']
    }
    /** In these settings a plain space is a visible character like any other. */
    const isPath = (text: string) => /^(sqlite:|\.\/|shop\.)/.test(text)
    const unseen = [' ', '\t', '\n', '\r\n', '\u00a0', '\u200b', '\ufeff', '\u2028', '\u00ad', '\0']
    let taken = 0
    fc.assert(
      fc.property(
        fc.constantFrom(...clean),
        fc.constantFrom(...unseen),
        fc.nat(),
        ([name, text], junk, at) => {
          fc.pre(junk !== ' ' || !isPath(text))
          const place = at % (text.length + 1)
          const decorated = text.slice(0, place) + junk + text.slice(place)
          try {
            expect(read(name, decorated)).toEqual(read(name, text))
            taken++
          } catch (error) {
            expect(error).toBeInstanceOf(ConfigError)
          }
        },
      ),
      { numRuns: 3_000 },
    )
    expect(taken).toBeGreaterThan(100)
    for (const [name, text] of clean) {
      expect(read(name, `\t${text} \r\n`)).toEqual(read(name, text))
    }
  })

  it('and so is the URL of an endpoint, of which every part is sent', () => {
    const clean = [
      'https://example.com/hook',
      'http://127.0.0.1:8080/a?b=c',
      'https://jöbs.example/',
    ]
    const junk = fc.constantFrom(...' \t\n\r\u00a0\u200b\ufeff\u2028\u00ad\0', '#', '#a')
    const sent = (text: string) => new URL(text).href
    const { url } = endpointBody.shape
    for (const text of clean) expect(url.parse(text)).toBe(text)
    fc.assert(
      fc.property(fc.constantFrom(...clean), junk, fc.nat(), (text, odd, at) => {
        const place = at % (text.length + 1)
        const decorated = text.slice(0, place) + odd + text.slice(place)
        const read = url.safeParse(decorated)
        if (read.success) expect(sent(read.data as string)).toBe(sent(text))
      }),
      { numRuns: 2_000 },
    )
  })

  it('no secret is printed, wherever it is wrong, nor a password in a URL', () => {
    const secret = randomBytes(9).toString('hex')
    for (const name of ['API_KEYS', 'ENCRYPTION_KEY', 'STORE_URL']) {
      for (const text of [secret, `${KEY}\n${secret}`, `${secret}\u200b`, `${secret},${secret}`]) {
        expect(() => readConfig({ [name]: text })).toThrow(ConfigError)
        expect(() => readConfig({ [name]: text })).not.toThrow(new RegExp(secret))
      }
    }
    const url = `https://admin:${secret}@jobs.example.com`
    expect(() => readConfig({ PUBLIC_URL: url })).toThrow(/PUBLIC_URL.*jobs\.example\.com/)
    expect(() => readConfig({ PUBLIC_URL: url })).not.toThrow(new RegExp(secret))
  })

  it('all errors are reported at once, and no secret is printed', () => {
    const read = () => readConfig({ PORT: 'x', API_KEYS: 'hunter2', LOG_LEVEL: 'y' })
    expect(read).toThrow(/PORT.*API_KEYS.*LOG_LEVEL/s)
    expect(read).not.toThrow(/hunter2/)
  })
})
