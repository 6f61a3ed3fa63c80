// From the options of `posthorn endpoints put` to the settings of an endpoint.
import type { EndpointSettings } from '../src/client/client.ts'
import type { Option } from './command.ts'
import { readDocument } from './document.ts'
import { UsageError } from './exit.ts'
import { wholeNumber } from './input.ts'

export const PUT_OPTIONS = {
  url: { type: 'string', value: 'URL', help: 'where its jobs are sent' },
  pull: { type: 'boolean', help: 'no URL: its jobs are pulled, as posthorn listen does' },
  description: { type: 'string', value: 'TEXT', help: 'for people' },
  timeout: { type: 'string', value: 'DURATION', help: 'of one attempt; 15s' },
  'max-attempts': { type: 'string', value: 'N', help: 'before a job is dead; 10' },
  concurrency: { type: 'string', value: 'N', help: 'attempts at once; no limit' },
  'rate-limit': { type: 'string', value: 'N/DURATION', help: 'attempts started, like 100/1m' },
  async: { type: 'boolean', help: 'a 202 means that the handler reports later' },
  file: {
    type: 'string',
    value: 'FILE',
    help: 'all settings, as JSON or YAML; options go over it',
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
  file?: string
}

const MAX_NUMBER = 1_000_000

/** What is allowed is for the server to say: here only the shapes are made. @throws UsageError */
export async function endpointSettings(values: PutValues): Promise<EndpointSettings> {
  const fromFile = values.file === undefined ? {} : await readDocument(values.file)
  const { url, pull, description, timeout, concurrency } = values
  if (url !== undefined && pull === true) {
    throw new UsageError('--url and --pull can not both be given.')
  }
  const settings = {
    ...fromFile,
    ...(url === undefined ? {} : { url }),
    ...(pull === true ? { url: null } : {}),
    ...(description === undefined ? {} : { description }),
    ...(timeout === undefined ? {} : { timeout }),
    ...(values.async === true ? { completion: 'async' } : {}),
    ...(concurrency === undefined
      ? {}
      : { concurrency: wholeNumber('--concurrency', concurrency, 1, MAX_NUMBER) }),
    ...retryFrom(values['max-attempts'], fromFile),
    ...rateLimitFrom(values['rate-limit']),
  }
  if ('url' in settings) return settings as EndpointSettings
  throw new UsageError('posthorn endpoints put needs --url URL, --pull, or a url in --file.')
}

function retryFrom(maxAttempts: string | undefined, fromFile: Record<string, unknown>): object {
  if (maxAttempts === undefined) return {}
  const wanted = wholeNumber('--max-attempts', maxAttempts, 1, MAX_NUMBER)
  return { retry: { ...(fromFile.retry as object | undefined), maxAttempts: wanted } }
}

function rateLimitFrom(text: string | undefined): object {
  if (text === undefined) return {}
  const [count = '', per, ...rest] = text.split('/')
  if (per === undefined || rest.length > 0) {
    throw new UsageError(
      `--rate-limit is "${text}"; expected a number and a duration, like 100/1m.`,
    )
  }
  return { rateLimit: { count: wholeNumber('--rate-limit', count, 1, MAX_NUMBER), per } }
}
