// The only reader of the environment: each setting with its default, its check and its meaning.
// npm run docs prints this list.
import { randomBytes } from 'node:crypto'
import { hostname } from 'node:os'
import { isHostName, parseHttpUrl } from './endpoint/http-url.ts'
import { formatDuration, parseDuration } from './job/duration.ts'
import { isPlainText } from './plain-text.ts'
import { sideFileEnd } from './store/file-names.ts'
import { type OutboxName, outboxNameProblem } from './store/outbox.ts'
import { KEY_SHAPE, readKey } from './store/secret-box.ts'

/** Invalid settings: one sentence for each. The command exits with code 2. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError'
}

interface Setting<T> {
  /** As text in the environment; null: not set. */
  default: string | null
  meaning: string
  /** `LEAST to MOST`; null: it is no number and no duration. */
  range: string | null
  /** Throws an Error whose message completes "expected …". */
  parse: (text: string) => T
}

/** The characters of a Bearer token (RFC 6750), which every client and proxy can send. */
const API_KEY = /^[A-Za-z0-9._~+/=-]{24,256}$/
const API_KEY_SHAPE = '24–256 letters, digits and - . _ ~ + / ='
const MAX_BODY_BYTES_CEILING = 8 * 1_048_576

export const SETTINGS = {
  STORE_URL: setting(
    'sqlite:./data/posthorn.db',
    '`sqlite:` and a file, `mongodb://…` or `mongodb+srv://…` (database name in the path, default `posthorn`)',
    storeUrl,
  ),
  HOST: setting('127.0.0.1', 'address that the API listens on', host),
  PORT: setting(
    '8080',
    'port that the API listens on; `0` picks a free port and logs it',
    integer(0, 65_535),
  ),
  API_KEYS: listSetting(
    null,
    `admin keys, each ${API_KEY_SHAPE}, separated by commas or line ends; without a key the API runs in local mode, on loopback only`,
    apiKey,
  ),
  PUBLIC_URL: setting(
    null,
    'base of the URLs that async handlers report to: http or https, without user, query and fragment. Default: in local mode the URL that the API listens on; otherwise none, and async endpoints are refused',
    publicUrl,
  ),
  ENCRYPTION_KEY: listSetting(
    null,
    `key that encrypts secrets at rest: ${KEY_SHAPE}. Several keys, separated by commas or line ends, for a rotation: the first encrypts, all decrypt. Default: a key file beside the SQLite file; required with MongoDB`,
    encryptionKey,
  ),
  ALLOWED_TARGETS: listSetting(
    null,
    'CIDRs or host:port that deliveries may reach in addition to public addresses, separated by commas or line ends',
    (target) => target,
  ),
  EXTRA_CA_CERTS: setting(null, 'PEM file with additional root certificates for TLS', nonEmpty),
  MAX_BODY_BYTES: setting(
    '1048576',
    'limit of a request body in bytes',
    integer(1_024, MAX_BODY_BYTES_CEILING),
  ),
  WORKER_CONCURRENCY: setting(
    '100',
    'limit of attempts in flight in one worker process',
    integer(1, 10_000),
  ),
  WORKER_ID: setting(
    null,
    'name of the worker; default: host name, process id and a random suffix',
    workerId,
  ),
  WORKER_PORT: setting(
    null,
    'port on `HOST` where the worker serves `/health/live`, `/health/ready` and `/metrics`; not set: none',
    integer(0, 65_535),
  ),
  LEASE_DURATION: setting(
    '30s',
    'how long a lease lasts; workers renew it every third of this',
    duration('1s', '1h'),
  ),
  POLL_INTERVAL: setting(
    '250ms',
    'how often an idle worker searches for due jobs; while a change stream wakes it, 20 times as long, at most 5 s',
    duration('5ms', '1m'),
  ),
  CHANGE_STREAM: setting(
    'on',
    '`on` or `off`: whether a change stream of MongoDB wakes idle workers. `off` costs the server less with many workers, which then start a job up to `POLL_INTERVAL` later',
    oneOf(['on', 'off']),
  ),
  SWEEP_INTERVAL: setting(
    '1s',
    'how often one process searches for expired leases and expired jobs: a worker, or an API while no worker is live',
    duration('10ms', '1h'),
  ),
  SHUTDOWN_GRACE: setting(
    '25s',
    'how long a stopping worker waits for its attempts. It ends at most 4 s later, even if the store is unavailable',
    duration('0s', '1h'),
  ),
  RETENTION: setting(
    '7d',
    'how long succeeded and cancelled jobs are kept after their end. Jobs with an idempotency key, and jobs that a schedule, an `onFinish` or an outbox made, are kept for at least 24 h',
    duration('0s', '3650d'),
  ),
  RETENTION_DEAD: setting('30d', 'the same, for dead jobs', duration('0s', '3650d')),
  OUTBOX: setting(
    null,
    '`database.collection` of the MongoDB cluster in `STORE_URL` whose documents become jobs, to enqueue inside your own transaction',
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

/** The settings as values: durations in milliseconds, null if not set. */
export type Config = { [N in SettingName]: Value<N> | Unset<N> }

/** Reads all settings, or throws one ConfigError with a sentence for each invalid one. */
export function readConfig(env: Record<string, string | undefined>): Config {
  const problems: string[] = []
  const values: Record<string, unknown> = {}
  for (const [name, { default: fallback, parse }] of Object.entries(SETTINGS)) {
    const text = env[name] || fallback
    try {
      values[name] = text === null ? null : parse(text)
    } catch (error) {
      problems.push(wrongVariable(name, text, error))
    }
  }
  const url = values.STORE_URL
  if (values.OUTBOX && typeof url === 'string' && url.startsWith('sqlite:')) {
    problems.push('OUTBOX needs a store on MongoDB, but STORE_URL is SQLite; unset one of them.')
  }
  if (problems.length > 0) throw new ConfigError(problems.join('\n'))
  return values as Config
}

/**
 * Reads a variable that is not a setting of the server, such as those of the command. Returns it
 * without white space around it; null: not set.
 *
 * @throws ConfigError if it is not plain text
 */
export function readVariable(name: string, env: Record<string, string | undefined>): string | null {
  const text = env[name]
  if (text === undefined || text === '') return null
  try {
    return plainText(text)
  } catch (error) {
    throw new ConfigError(wrongVariable(name, text, error))
  }
}

/** The default name of a worker: unique, and it shows the machine and the process. */
export function newWorkerId(): string {
  return `${hostname()}-${process.pid}-${randomBytes(3).toString('hex')}`
}

/** Creates what a setting describes. If `make` throws, the setting is reported as invalid. */
export function fromSetting<T>(name: SettingName, make: () => T): T {
  try {
    return make()
  } catch (error) {
    throw new ConfigError(`${name} cannot be used: ${(error as Error).message}.`)
  }
}

const SECRET_VARIABLES = new Set([
  'API_KEYS',
  'ENCRYPTION_KEY',
  'STORE_URL',
  'POSTHORN_KEY',
  'POSTHORN_SECRET',
])
const MAX_SHOWN = 200

function wrongVariable(name: string, text: string | null, error: unknown): string {
  return `${name} is ${shown(name, text)}; expected ${(error as Error).message}.`
}

/** Never shows a secret, not even an invalid one, nor the password in a URL. */
function shown(name: string, text: string | null): string {
  if (text === null) return 'not set'
  if (SECRET_VARIABLES.has(name)) return `set to ${text.length} characters (not shown)`
  const bare = text.replace(/\/\/[^/@]*@/g, '//***@')
  return JSON.stringify(bare.length > MAX_SHOWN ? `${bare.slice(0, MAX_SHOWN)}…` : bare)
}

/** Trims the value: a file or a shell often leaves a line end. */
function setting<T, D extends string | null>(
  fallback: D,
  meaning: string,
  parse: ((text: string) => T) & { range?: string },
) {
  return {
    default: fallback,
    meaning,
    range: parse.range ?? null,
    parse: (text: string) => parse(plainText(text)),
  } satisfies Setting<T>
}

/** Commas or line ends separate the entries of every list. Empty entries are ignored. */
function listSetting<T, D extends string | null>(
  fallback: D,
  meaning: string,
  parseEntry: (text: string) => T,
) {
  const parse = (text: string): T[] => {
    const entries = text.split(/[,\r\n]/).filter((entry) => entry.trim() !== '')
    if (entries.length === 0) throw new Error('at least one entry')
    const plain = entries.map((entry, i) => atEntry(i, entries.length, () => plainText(entry)))
    const repeated = plain.findIndex((entry, i) => plain.indexOf(entry) !== i)
    if (repeated >= 0) throw new Error(`each entry once; entry ${repeated + 1} is a repeat`)
    return plain.map((entry, i) => atEntry(i, plain.length, () => parseEntry(entry)))
  }
  return { default: fallback, meaning, range: null, parse } satisfies Setting<T[]>
}

function atEntry<T>(index: number, count: number, parse: () => T): T {
  try {
    return parse()
  } catch (error) {
    const place = `; entry ${index + 1} of ${count} is invalid`
    throw new Error(`${(error as Error).message}${count > 1 ? place : ''}`)
  }
}

/** The value without white space around it. */
function plainText(text: string): string {
  const plain = text.trim()
  if (plain !== '' && isPlainText(plain)) return plain
  throw new Error('text of one line, without control or invisible characters')
}

function storeUrl(text: string): string {
  const path = /^sqlite:(.*)$/.exec(text)?.[1]?.trim()
  // Other programs interpret these characters; here they would become part of a file name.
  if (path !== undefined && /^(~|file:|:memory:)|[?#]/.test(path)) {
    throw new Error('the path of a file after sqlite:, without ~, ?, # and :memory:')
  }
  if (path) {
    const end = sideFileEnd(path)
    if (end === null) return `sqlite:${path}`
    throw new Error(
      `sqlite:PATH with a path that does not end in ${end}: such files belong to a store`,
    )
  }
  if (/^mongodb(\+srv)?:\/\/[^ ]+$/.test(text)) return text
  throw new Error('sqlite:PATH, mongodb://… or mongodb+srv://…')
}

/**
 * Returns the URL as the URL parser writes it, because handlers get it in a header, and without a
 * slash at the end.
 */
function publicUrl(text: string): string {
  const url = /[?#]/.test(text) ? null : parseHttpUrl(text)
  if (url !== null) return url.origin + url.pathname.replace(/\/+$/, '')
  throw new Error(
    'an http or https URL without user, query and fragment, like https://jobs.example.com',
  )
}

/** Accepts an IPv6 address with brackets, as in a URL, and removes them. */
function host(text: string): string {
  const bare = text.replace(/^\[(.*)\]$/, '$1')
  // A link-local address may end with a zone, like %eth0. It is not part of the check.
  if (isHostName(bare.replace(/%[\w.-]+$/, '').toLowerCase())) return bare
  throw new Error('an address or a host name without a port, which PORT sets')
}

function nonEmpty(text: string): string {
  return text
}

function apiKey(text: string): string {
  if (API_KEY.test(text)) return text
  throw new Error(`keys of ${API_KEY_SHAPE}, separated by commas or line ends`)
}

function encryptionKey(text: string): Buffer {
  const key = readKey(text)
  if (key !== null) return key
  throw new Error(`${KEY_SHAPE}; several are separated by commas or line ends`)
}

/** A database name contains no dot. A collection name may, but not at its start or end. */
function outboxName(text: string): OutboxName {
  const [, database, collection] =
    /^([^.\s/\\"$]{1,63})\.([^$\0.]+(?:\.[^$\0.]+)*)$/.exec(text) ?? []
  if (database === undefined || collection === undefined) {
    throw new Error('the names of a database and a collection, like shop.posthorn_outbox')
  }
  const problem = outboxNameProblem({ database, collection })
  if (problem !== null) throw new Error(problem)
  return { database, collection }
}

function workerId(text: string): string {
  if (/^[A-Za-z0-9._:-]{1,128}$/.test(text)) return text
  throw new Error('1–128 letters, digits, dots, underscores, colons or hyphens')
}

function integer(min: number, max: number) {
  const range = `${min} to ${max}`
  const parse = (text: string): number => {
    const value = Number(text)
    if (/^\d+$/.test(text) && value >= min && value <= max) return value
    throw new Error(`a whole number from ${range}`)
  }
  return Object.assign(parse, { range })
}

function duration(min: string, max: string) {
  const minMs = parseDuration(min) ?? 0
  const maxMs = parseDuration(max) ?? 0
  const range = `${min} to ${formatDuration(maxMs)}`
  const parse = (text: string): number => {
    const valueMs = parseDuration(text)
    if (valueMs !== null && valueMs >= minMs && valueMs <= maxMs) return valueMs
    throw new Error(`a duration like 500ms, 15s or 1h30m, from ${range}`)
  }
  return Object.assign(parse, { range })
}

function oneOf(words: string[]) {
  return (text: string): string => {
    if (words.includes(text)) return text
    throw new Error(`one of ${words.join(', ')}`)
  }
}
