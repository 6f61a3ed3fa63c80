// Translates messages of the API to the words of the command line. The API names requests as
// `METHOD /path`, query parameters as `?name=true`, and fields by a JSON Pointer or `query/name` in
// `errors`. Each becomes the command, option or argument that corresponds to it.
import { PosthornError } from '../src/client/posthorn-error.ts'
import { NO_ROUTE } from '../src/errors.ts'
import type { Action, Given } from './command.ts'

/**
 * Commands by request; `*` is the name or id in both. Requests without a command are not
 * translated.
 */
export const COMMANDS: Record<string, string> = {
  'POST /jobs': 'enqueue',
  'GET /jobs': 'jobs',
  'GET /jobs/*': 'get *',
  'GET /jobs/*/explain': 'explain *',
  'POST /jobs/*/cancel': 'cancel *',
  'POST /jobs/*/retry': 'retry *',
  'GET /endpoints': 'endpoints list',
  'GET /endpoints/*': 'endpoints get *',
  'GET /endpoints/*/keys': 'endpoints keys *',
  'PUT /endpoints/*': 'endpoints put * --url URL',
  'PATCH /endpoints/*': 'endpoints set *',
  'DELETE /endpoints/*': 'endpoints delete *',
  'POST /endpoints/*/pause': 'endpoints pause *',
  'POST /endpoints/*/resume': 'endpoints resume *',
  'POST /endpoints/*/rotate-secret': 'endpoints rotate *',
  'POST /endpoints/*/test': 'endpoints test *',
  'GET /limits': 'limits list',
  'GET /limits/*': 'limits get *',
  'PUT /limits/*': 'limits put *',
  'DELETE /limits/*': 'limits delete *',
  'GET /schedules': 'schedules list',
  'GET /schedules/*': 'schedules get *',
  'PUT /schedules/*': 'apply',
  'DELETE /schedules/*': 'schedules delete *',
  'POST /schedules/*/pause': 'schedules pause *',
  'POST /schedules/*/resume': 'schedules resume *',
  'POST /schedules/*/run': 'schedules run *',
  'GET /keys': 'keys list',
  'POST /keys': 'keys create',
  'DELETE /keys/*': 'keys delete *',
  'GET /stats': 'stats',
  'GET /workers': 'workers',
}

/** Fields whose options have other names. */
const OPTIONS: Record<string, string[]> = {
  tags: ['tag'],
  completion: ['async', 'sync'],
}

const REQUEST = /\b(GET|POST|PUT|PATCH|DELETE) (\/[\w.:/-]*\w)/g
const FLAG = /\?(\w+)=true\b/g
const KEY_HEADER = 'Idempotency-Key'

/** @param sentence from the API, to be printed by a command */
export function inCommandWords(sentence: string): string {
  return sentence
    .replace(REQUEST, (request, method: string, path: string) => commandOf(method, path) ?? request)
    .replace(FLAG, (_, name: string) => `--${kebab(name)}`)
    .replaceAll(KEY_HEADER, '--idempotency-key')
}

type Typed = { action: Action; given: Given }

/**
 * The same error, in the words that the user typed.
 *
 * @param typed absent: the error is not about the words of the command
 */
export function errorInCommandWords(error: PosthornError, typed?: Typed): PosthornError {
  const { status, requestId, retryAfterMs, cause } = error
  const code = isOtherPath(error) ? 'unexpected_answer' : error.code
  const errors = error.errors.map(({ path, message }) => ({
    path: nameOf(path, typed),
    message: inCommandWords(message),
  }))
  const detail = error.errors.reduce(
    (text, { path }, i) => text.replace(`${path}: `, () => `${errors[i]?.path}: `),
    ownSentence(error, typed) ?? error.detail,
  )
  const parts = { code, status, requestId, retryAfterMs, cause, errors }
  return new PosthornError({ ...parts, detail: inCommandWords(detail) })
}

/** All requests of commands have a route, so POSTHORN_URL must have a path before it. */
function isOtherPath({ code, detail }: PosthornError): boolean {
  return code === 'not_found' && detail.startsWith(NO_ROUTE)
}

/** Replaces advice that only helps authors of requests. null: keep the sentence of the API. */
function ownSentence(error: PosthornError, typed?: Typed): string | null {
  if (isOtherPath(error)) {
    return 'the server at this URL is Posthorn, but it has no Posthorn API under this path'
  }
  const { code, detail } = error
  switch (code) {
    case 'unauthorized':
      return 'the server needs an API key, or does not accept this one'
    case 'store_unavailable': {
      const [found, advice] = detail.split(/;(.*)/)
      if (advice === undefined || typed?.action.options['idempotency-key'] !== undefined)
        return null
      return `${found}; the change may have been made: check before you repeat it`
    }
    case 'connection_failed':
    case 'timeout':
    case 'unexpected_answer':
      // The client's message begins with the request.
      return detail.replace(/^[A-Z]+ \/\S*/, 'the request')
    default:
      return null
  }
}

function commandOf(method: string, path: string): string | null {
  const [, resource = '', name, ...verb] = path.split('/')
  const shape = ['', resource, ...(name === undefined ? [] : ['*']), ...verb].join('/')
  const command = COMMANDS[`${method} ${shape}`]
  if (command === undefined) return null
  const shown = name?.startsWith(':') ? name.slice(1).toUpperCase() : name
  return `posthorn ${command.replace('*', shown ?? '')}`
}

/**
 * The name that the user knows: the option or argument that was given, else the field as it is in a
 * file.
 *
 * @param path a JSON Pointer (RFC 6901), or `query/name`, `path/name`, `header/name`
 */
function nameOf(path: string, typed?: Typed): string {
  const [part = '', ...rest] = path.split('/')
  const steps = rest.map((step) => step.replaceAll('~1', '/').replaceAll('~0', '~'))
  const fields = part === '' && steps[0] === 'filter' ? steps.slice(1) : steps
  if (typed !== undefined) {
    for (const field of fields.toReversed()) {
      const name = wordFor(field, typed)
      if (name !== null) return name
    }
  }
  return fields.length === 0 ? 'the request' : fields.join('.')
}

function wordFor(field: string, { action, given }: Typed): string | null {
  const names = OPTIONS[field] ?? [kebab(field)]
  const option = names.find((name) => given.values[name] !== undefined)
  if (option !== undefined) return `--${option}`
  const wanted = field.toUpperCase()
  const isArgument = action.arguments.some((one) => one.replace(/[[\].]/g, '') === wanted)
  return isArgument ? wanted : null
}

function kebab(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)
}
