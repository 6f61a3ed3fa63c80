// Converts the options of `posthorn endpoints put` and `set` to the settings of an endpoint.
import type { EndpointChange, EndpointSettings } from '../src/client/client.ts'
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
  async: { type: 'boolean', help: 'a 202 means that the handler reports later' },
  sync: { type: 'boolean', help: 'a 202 means success, like any 2xx' },
  file: {
    type: 'string',
    value: 'FILE',
    help: 'settings as JSON or YAML; options override them',
  },
} as const satisfies Record<string, Option>

interface PutValues {
  url?: string
  pull?: boolean
  description?: string
  timeout?: string
  'max-attempts'?: string
  concurrency?: string
  'rate-limit'?: string
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
    ...concurrencyFrom(concurrency),
    ...retryFrom(values['max-attempts'], fromFile),
    ...rateLimitFrom(values['rate-limit']),
  }
}

function refuseBoth(values: PutValues, one: keyof PutValues, other: keyof PutValues): void {
  if (values[one] === undefined || values[other] === undefined) return
  throw new UsageError(`--${one} and --${other} cannot both be given.`)
}

function concurrencyFrom(text: string | undefined): { concurrency?: number | null } {
  if (text === undefined) return {}
  if (text === NO_LIMIT) return { concurrency: null }
  return { concurrency: wholeNumber('--concurrency', text, 1, MAX_CONCURRENCY) }
}

function retryFrom(maxAttempts: string | undefined, fromFile: Record<string, unknown>): object {
  if (maxAttempts === undefined) return {}
  const wanted = wholeNumber('--max-attempts', maxAttempts, 1, MAX_ATTEMPTS)
  return { retry: { ...(fromFile.retry as object | undefined), maxAttempts: wanted } }
}

function rateLimitFrom(text: string | undefined): object {
  if (text === undefined) return {}
  if (text === NO_LIMIT) return { rateLimit: null }
  const [count = '', per, ...rest] = text.split('/')
  if (per === undefined || rest.length > 0) {
    throw new UsageError(
      `--rate-limit is "${text}"; expected a number and a duration, like 100/1m.`,
    )
  }
  return { rateLimit: { count: wholeNumber('--rate-limit', count, 1, MAX_RATE_COUNT), per } }
}
