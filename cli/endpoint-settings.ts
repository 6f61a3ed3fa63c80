// Converts the options of `posthorn endpoints put` and `set` to the settings of an endpoint.
import type {
  EndpointChange,
  EndpointSettings,
  FairnessKeySettings,
  RateLimit,
  SharedLimitSettings,
  StoredFairnessKey,
} from '../src/client/client.ts'
import { MAX_WEIGHT } from '../src/endpoint/key-limits.ts'
import { MAX_CONCURRENCY, MAX_RATE_COUNT } from '../src/wire/endpoints.ts'
import { MAX_ATTEMPTS } from '../src/wire/fields.ts'
import type { Option } from './command.ts'
import { readDocument } from './document.ts'
import { UsageError } from './exit.ts'
import { wholeNumber } from './input.ts'

export const PUT_OPTIONS = {
  url: { type: 'string', value: 'URL', help: 'where its jobs are sent' },
  pull: { type: 'boolean', help: 'no URL: its jobs are pulled, for example by posthorn listen' },
  description: { type: 'string', value: 'TEXT', help: 'a note for people' },
  timeout: { type: 'string', value: 'DURATION', help: 'limit of one attempt; default 15s' },
  'max-attempts': { type: 'string', value: 'N', help: 'attempts before a job is dead; default 10' },
  concurrency: {
    type: 'string',
    value: 'N',
    help: 'attempts at the same time; none removes the limit',
  },
  'rate-limit': {
    type: 'string',
    value: 'N/DURATION',
    help: 'attempts in a time, like 100/1m; none removes the limit',
  },
  'key-concurrency': {
    type: 'string',
    value: 'N',
    help: 'attempts of one fairness key at the same time; none removes the limit',
  },
  'key-rate-limit': {
    type: 'string',
    value: 'N/DURATION',
    help: 'attempts of one fairness key in a time; none removes the limit',
  },
  limits: {
    type: 'string',
    value: 'NAME,…',
    help: 'limits that it shares with other endpoints; none removes them',
  },
  async: { type: 'boolean', help: 'a 202 means that the handler reports later' },
  sync: { type: 'boolean', help: 'a 202 means success, like any 2xx' },
  file: {
    type: 'string',
    value: 'FILE',
    help: 'settings as JSON or YAML; options override them',
  },
} as const satisfies Record<string, Option>

export const KEY_OPTIONS = {
  weight: { type: 'string', value: 'N', help: 'its share among the keys, 1 to 100; default 1' },
  concurrency: { type: 'string', value: 'N', help: 'its attempts at the same time; none, default' },
  'rate-limit': { type: 'string', value: 'N/DURATION', help: 'like 100/1m; none, default' },
  pause: { type: 'boolean', help: 'start no job of the key' },
  resume: { type: 'boolean', help: 'start its jobs again' },
  reset: { type: 'boolean', help: 'first remove all its settings' },
} as const satisfies Record<string, Option>

interface KeyValues {
  weight?: string
  concurrency?: string
  'rate-limit'?: string
  pause?: boolean
  resume?: boolean
}

interface PutValues {
  url?: string
  pull?: boolean
  description?: string
  timeout?: string
  'max-attempts'?: string
  concurrency?: string
  'rate-limit'?: string
  'key-concurrency'?: string
  'key-rate-limit'?: string
  limits?: string
  async?: boolean
  sync?: boolean
  file?: string
}

/** The value that removes a limit. */
const NO_LIMIT = 'none'

/** All settings of an endpoint. @throws UsageError */
export async function endpointSettings(values: PutValues): Promise<EndpointSettings> {
  const settings = await settingsGiven(values)
  if ('url' in settings) return settings as EndpointSettings
  throw new UsageError('posthorn endpoints put needs --url URL, --pull, or a url in --file.')
}

/** The settings to change. @throws UsageError */
export async function endpointChange(values: PutValues): Promise<EndpointChange> {
  const change = await settingsGiven(values)
  if (Object.keys(change).length > 0) return change
  throw new UsageError('posthorn endpoints set needs a setting. See: posthorn endpoints set --help')
}

/** Converts the values. The server validates what is not checked here. */
async function settingsGiven(values: PutValues): Promise<EndpointChange> {
  const fromFile = values.file === undefined ? {} : await readDocument(values.file)
  const { url, pull, description, timeout, concurrency } = values
  refuseBoth(values, 'async', 'sync')
  refuseBoth(values, 'url', 'pull')
  return {
    ...fromFile,
    ...(url === undefined ? {} : { url }),
    ...(pull === true ? { url: null } : {}),
    ...(description === undefined ? {} : { description }),
    ...(timeout === undefined ? {} : { timeout }),
    ...(values.async === true ? { completion: 'async' } : {}),
    ...(values.sync === true ? { completion: 'sync' } : {}),
    ...concurrencyFrom('--concurrency', concurrency),
    ...retryFrom(values['max-attempts'], fromFile),
    ...rateLimitFrom('--rate-limit', values['rate-limit']),
    ...perKeyFrom(values),
    ...limitsFrom(values.limits),
  }
}

function limitsFrom(text: string | undefined): { limits?: string[] } {
  if (text === undefined) return {}
  return { limits: text === NO_LIMIT ? [] : text.split(',').map((name) => name.trim()) }
}

function refuseBoth(values: PutValues, one: keyof PutValues, other: keyof PutValues): void {
  if (values[one] === undefined || values[other] === undefined) return
  throw new UsageError(`--${one} and --${other} cannot both be given.`)
}

function concurrencyFrom(
  option: string,
  text: string | undefined,
): { concurrency?: number | null } {
  if (text === undefined) return {}
  if (text === NO_LIMIT) return { concurrency: null }
  return { concurrency: wholeNumber(option, text, 1, MAX_CONCURRENCY) }
}

function perKeyFrom(values: PutValues): object {
  const perKey = {
    ...concurrencyFrom('--key-concurrency', values['key-concurrency']),
    ...rateLimitFrom('--key-rate-limit', values['key-rate-limit']),
  }
  return Object.keys(perKey).length === 0 ? {} : { perKey }
}

function retryFrom(maxAttempts: string | undefined, fromFile: Record<string, unknown>): object {
  if (maxAttempts === undefined) return {}
  const wanted = wholeNumber('--max-attempts', maxAttempts, 1, MAX_ATTEMPTS)
  return { retry: { ...(fromFile.retry as object | undefined), maxAttempts: wanted } }
}

function rateLimitFrom(option: string, text: string | undefined): { rateLimit?: RateLimit | null } {
  if (text === undefined) return {}
  if (text === NO_LIMIT) return { rateLimit: null }
  const [count = '', per, ...rest] = text.split('/')
  if (per === undefined || rest.length > 0) {
    throw new UsageError(`${option} is "${text}"; expected a number and a duration, like 100/1m.`)
  }
  return { rateLimit: { count: wholeNumber(option, count, 1, MAX_RATE_COUNT), per } }
}

export const LIMIT_OPTIONS = {
  concurrency: {
    type: 'string',
    value: 'N',
    help: 'attempts of all its endpoints at the same time',
  },
  'rate-limit': {
    type: 'string',
    value: 'N/DURATION',
    help: 'attempts of all its endpoints in a time, like 100/1m',
  },
} as const satisfies Record<string, Option>

/** The settings of a limit that are given. @throws UsageError */
export function limitSettingsGiven(values: {
  concurrency?: string
  'rate-limit'?: string
}): SharedLimitSettings {
  return {
    ...concurrencyFrom('--concurrency', values.concurrency),
    ...rateLimitFrom('--rate-limit', values['rate-limit']),
  }
}

/** The settings of a fairness key after the change; null: nothing changes. @throws UsageError */
export function changedKey(
  stored: StoredFairnessKey,
  values: KeyValues,
): FairnessKeySettings | null {
  const { weight, pause, resume } = values
  if (pause === true && resume === true) {
    throw new UsageError('--pause and --resume cannot both be given.')
  }
  const limits = {
    concurrency: limitOf(
      values.concurrency,
      stored.concurrency,
      (text) => concurrencyFrom('--concurrency', text).concurrency,
    ),
    rateLimit: limitOf(
      values['rate-limit'],
      stored.rateLimit,
      (text) => rateLimitFrom('--rate-limit', text).rateLimit,
    ),
  }
  const given = [weight, values.concurrency, values['rate-limit'], pause, resume]
  if (given.every((value) => value === undefined)) return null
  return {
    ...limits,
    weight: weight === undefined ? stored.weight : wholeNumber('--weight', weight, 1, MAX_WEIGHT),
    paused: resume === true ? false : (pause ?? stored.paused),
  }
}

/** The value of a limit that the endpoint decides. */
const DEFAULT_LIMIT = 'default'

function limitOf<T>(
  text: string | undefined,
  stored: T | undefined,
  read: (text: string) => T | undefined,
): T | undefined {
  if (text === undefined) return stored
  return text === DEFAULT_LIMIT ? undefined : read(text)
}
