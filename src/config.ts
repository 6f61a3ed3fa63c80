// The only reader of the environment: every setting with its default, its check and its meaning.
import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import { formatDuration, parseDuration } from './job/duration.ts'

/** Wrong settings: one sentence each, exit code 2. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
}

interface Setting<T> {
  /** As a person would write it; null: not set. */
  default: string | null
  meaning: string
  /** Throws an Error that says what is expected. */
  parse: (text: string) => T
}

export const MIN_KEY_LENGTH = 24
const MAX_BODY_BYTES_CEILING = 8 * 1_048_576
const ENCRYPTION_KEY_BYTES = 32

export const SETTINGS = {
  STORE_URL: setting(
    'sqlite:./data/posthorn.db',
    'or `mongodb://…`, `mongodb+srv://…` (database name in the path, default `posthorn`)',
    storeUrl,
  ),
  HOST: setting('127.0.0.1', 'where the API listens', nonEmpty),
  PORT: setting('8080', '`0` picks a free port and logs it', integer(0, 65_535)),
  API_KEYS: setting(
    null,
    'comma-separated admin keys, each of 24 characters or more; none: local mode, loopback only',
    apiKeys,
  ),
  PUBLIC_URL: setting(
    null,
    'base of the URLs that async handlers report to; default: in local mode the URL the API listens on, else none, and no async endpoint can be registered',
    publicUrl,
  ),
  ENCRYPTION_KEY: setting(
    null,
    '32 bytes in base64: encrypts secrets at rest. A comma-separated list rotates: the first encrypts, all decrypt. Default: a key file beside the SQLite file; always needed with MongoDB',
    encryptionKeys,
  ),
  ALLOWED_TARGETS: setting(
    null,
    'comma-separated CIDRs or host:port that deliveries may reach beyond the public internet',
    list,
  ),
  EXTRA_CA_CERTS: setting(null, 'PEM file with further roots for TLS', nonEmpty),
  MAX_BODY_BYTES: setting(
    '1048576',
    'largest request body, at most 8 MiB',
    integer(1_024, MAX_BODY_BYTES_CEILING),
  ),
  WORKER_CONCURRENCY: setting(
    '100',
    'attempts in flight in one worker process',
    integer(1, 10_000),
  ),
  WORKER_ID: setting(null, 'name of the worker; default: host-pid-random', workerId),
  WORKER_PORT: setting(
    null,
    'when set, the worker serves `/health/live`, `/health/ready` and `/metrics` there, on `HOST`',
    integer(0, 65_535),
  ),
  LEASE_DURATION: setting('30s', 'renewed at a third', duration('1s', '1h')),
  POLL_INTERVAL: setting(
    '250ms',
    'longest sleep of an idle worker when nothing wakes it earlier',
    duration('5ms', '1m'),
  ),
  SWEEP_INTERVAL: setting(
    '1s',
    'how often lapsed leases and expired jobs are looked for',
    duration('10ms', '1h'),
  ),
  SHUTDOWN_GRACE: setting(
    '25s',
    'how long a stopping worker lets attempts finish',
    duration('0s', '1h'),
  ),
  RETENTION: setting(
    '7d',
    'how long succeeded and cancelled jobs are kept',
    duration('0s', '3650d'),
  ),
  RETENTION_DEAD: setting('30d', 'how long dead jobs are kept', duration('0s', '3650d')),
  OUTBOX: setting(
    null,
    '`database.collection` of the MongoDB cluster in `STORE_URL` whose documents become jobs, for enqueueing within a transaction of your own',
    outboxName,
  ),
  LOG_LEVEL: setting(
    'info',
    'fatal, error, warn, info, debug, trace or silent',
    oneOf(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent']),
  ),
} as const

type SettingName = keyof typeof SETTINGS
type Value<N extends SettingName> = ReturnType<(typeof SETTINGS)[N]['parse']>
type Unset<N extends SettingName> = (typeof SETTINGS)[N]['default'] extends null ? null : never

/** The settings as values: durations in milliseconds, what is not set as null. */
export type Config = { [N in SettingName]: Value<N> | Unset<N> }

/** Reads all settings, or throws one ConfigError with a sentence for each wrong one. */
export function readConfig(env: Record<string, string | undefined>): Config {
  const problems: string[] = []
  const values: Record<string, unknown> = {}
  for (const [name, { default: fallback, parse }] of Object.entries(SETTINGS)) {
    const text = env[name] === undefined || env[name] === '' ? fallback : env[name]
    try {
      values[name] = text === null ? null : parse(text)
    } catch (error) {
      problems.push(`${name} is ${shown(name, text)}; expected ${(error as Error).message}.`)
    }
  }
  const url = values.STORE_URL
  if (values.OUTBOX && typeof url === 'string' && url.startsWith('sqlite:')) {
    problems.push('OUTBOX needs a store on MongoDB, but STORE_URL is SQLite; unset one of them.')
  }
  if (problems.length > 0) throw new ConfigError(problems.join('\n'))
  return values as Config
}

/** A worker's name when none is set: unique, and telling where to look. */
export function newWorkerId(): string {
  return `${hostname()}-${process.pid}-${randomBytes(3).toString('hex')}`
}

/** Makes what a setting describes; what that throws is told as a wrong setting. */
export function fromSetting<T>(name: SettingName, make: () => T): T {
  try {
    return make()
  } catch (error) {
    throw new ConfigError(`${name} can not be used: ${(error as Error).message}.`)
  }
}

const SECRET_SETTINGS = new Set(['API_KEYS', 'ENCRYPTION_KEY', 'STORE_URL'])

/** A secret must not be printed, not even a wrong one. */
function shown(name: string, text: string | null): string {
  if (text === null) return 'not set'
  return SECRET_SETTINGS.has(name) ? `${text.length} characters of something else` : `"${text}"`
}

function setting<T, D extends string | null>(
  fallback: D,
  meaning: string,
  parse: (text: string) => T,
) {
  return { default: fallback, meaning, parse } satisfies Setting<T>
}

function storeUrl(text: string): string {
  if (/^sqlite:.+/.test(text) || /^mongodb(\+srv)?:\/\/.+/.test(text)) return text
  throw new Error('sqlite:PATH, mongodb://… or mongodb+srv://…')
}

/** Kept without a slash at its end. */
function publicUrl(text: string): string {
  const url = URL.parse(text)
  const isBase = url !== null && /^https?:$/.test(url.protocol) && url.search + url.hash === ''
  if (isBase && url.username === '') return text.replace(/\/+$/, '')
  throw new Error('an http or https URL without query, like https://jobs.example.com')
}

function nonEmpty(text: string): string {
  return text
}

function list(text: string): string[] {
  return text
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '')
}

function apiKeys(text: string): string[] {
  const keys = list(text)
  if (keys.length > 0 && keys.every((key) => key.length >= MIN_KEY_LENGTH)) return keys
  throw new Error(`comma-separated keys of at least ${MIN_KEY_LENGTH} characters each`)
}

function encryptionKeys(text: string): Buffer[] {
  const keys = list(text).map((item) => Buffer.from(item, 'base64'))
  if (keys.length > 0 && keys.every((key) => key.length === ENCRYPTION_KEY_BYTES)) return keys
  throw new Error(
    `${ENCRYPTION_KEY_BYTES} bytes in base64 (make one with: openssl rand -base64 ${ENCRYPTION_KEY_BYTES})`,
  )
}

/** The name of a database holds no dot, that of a collection may. */
function outboxName(text: string): { database: string; collection: string } {
  const [, database, collection] = /^([^.\s/\\"$]{1,63})\.([^$\0]{1,180})$/.exec(text) ?? []
  if (database !== undefined && collection !== undefined && !collection.startsWith('system.')) {
    return { database, collection }
  }
  throw new Error('the names of a database and a collection, like shop.posthorn_outbox')
}

function workerId(text: string): string {
  if (/^[A-Za-z0-9._:-]{1,128}$/.test(text)) return text
  throw new Error('1–128 of letters, digits, dot, underscore, colon, hyphen')
}

function integer(min: number, max: number) {
  return (text: string): number => {
    const value = Number(text)
    if (/^\d+$/.test(text) && value >= min && value <= max) return value
    throw new Error(`a whole number from ${min} to ${max}`)
  }
}

function duration(min: string, max: string) {
  const minMs = parseDuration(min) ?? 0
  const maxMs = parseDuration(max) ?? 0
  return (text: string): number => {
    const valueMs = parseDuration(text)
    if (valueMs !== null && valueMs >= minMs && valueMs <= maxMs) return valueMs
    throw new Error(`a duration like 500ms, 15s or 1h30m, from ${min} to ${formatDuration(maxMs)}`)
  }
}

function oneOf(words: string[]) {
  return (text: string): string => {
    if (words.includes(text)) return text
    throw new Error(`one of ${words.join(', ')}`)
  }
}
