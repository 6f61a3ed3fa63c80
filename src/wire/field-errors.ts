// Messages for refused fields: those for schemas without a message of their own, and the 400 that
// lists all refused fields.
import type { z } from 'zod'
import { AppError, type FieldError, shortened } from '../errors.ts'

/** Names of JSON types, by zod's names. */
const KINDS: Record<string, string> = {
  string: 'a string',
  number: 'a number',
  int: 'an integer',
  boolean: 'true or false',
  array: 'an array',
  object: 'an object',
  record: 'an object',
  null: 'null',
}

const UNITS: Record<string, string> = { string: 'character', array: 'item' }

const NOT_VALID = 'the value is not valid'

/** Replaces zod's own messages, which use terms of zod. */
export const fieldMessage: z.core.$ZodErrorMap = (issue) => {
  switch (issue.code) {
    case 'invalid_type':
      return missing(issue.input) ?? `expected ${kindOf(issue)}; found ${kindFound(issue.input)}`
    case 'invalid_value':
      return missing(issue.input) ?? `expected ${oneOf(issue.values)}`
    case 'invalid_union':
      return Array.isArray(issue.options) ? `expected ${oneOf(issue.options)}` : NOT_VALID
    case 'too_small':
      return sizeMessage(issue.origin, 'at least', issue.minimum)
    case 'too_big':
      return sizeMessage(issue.origin, 'at most', issue.maximum)
    case 'unrecognized_keys':
      return `not known: ${issue.keys.map((key) => JSON.stringify(shortened(key))).join(', ')}`
    case 'invalid_key':
      return issue.issues.map(({ message }) => `wrong name: ${message}`)[0]
    default:
      return NOT_VALID
  }
}

function missing(input: unknown): string | null {
  return input === undefined ? 'is required' : null
}

function kindOf({ expected, format }: { expected: string; format?: unknown }): string {
  return KINDS[format === 'safeint' ? 'int' : expected] ?? expected
}

function kindFound(input: unknown): string {
  if (input === null) return 'null'
  if (Array.isArray(input)) return 'an array'
  if (typeof input === 'number' && !Number.isFinite(input)) return 'a number out of range'
  if (typeof input === 'number' && !Number.isInteger(input)) return 'a number with a fraction'
  return KINDS[typeof input] ?? 'another value'
}

function oneOf(values: readonly unknown[]): string {
  const shown = values.map((value) => JSON.stringify(value)).join(', ')
  return values.length === 1 ? shown : `one of ${shown}`
}

function sizeMessage(origin: string, bound: string, limit: number | bigint): string {
  const unit = UNITS[origin]
  if (unit === undefined) return `expected ${bound} ${limit}`
  return `expected ${bound} ${limit} ${unit}${Number(limit) === 1 ? '' : 's'}`
}

/** The 400 for the issues of zod: the first message as the detail, all of them as field errors. */
export function invalidRequest(error: z.ZodError, prefix: string): AppError {
  const errors = error.issues
    .slice(0, MAX_FIELD_ERRORS)
    .flatMap((issue) => fieldErrors(issue, prefix))
  const [first] = errors
  const detail =
    first === undefined
      ? 'the request is not valid'
      : `${first.path || 'the body'}: ${first.message}`
  return new AppError('invalid_request', detail, { errors })
}

/** More would not help, and a long body could cause any number of them. */
const MAX_FIELD_ERRORS = 20

function fieldErrors(issue: z.core.$ZodIssue, prefix: string): FieldError[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.slice(0, MAX_FIELD_ERRORS).map((key) => ({
      path: pointer([...issue.path, key], prefix),
      message: 'this field is unknown',
    }))
  }
  return [{ path: pointer(issue.path, prefix), message: issue.message }]
}

/** A JSON Pointer (RFC 6901) into the body; `query/limit` and similar for the other parts. */
function pointer(path: PropertyKey[], prefix: string): string {
  const steps = path.map((step) =>
    shortened(String(step)).replaceAll('~', '~0').replaceAll('/', '~1'),
  )
  return prefix === '' ? steps.map((step) => `/${step}`).join('') : [prefix, ...steps].join('/')
}

/** The 422 for a request that is valid except for a name in its body. */
export function unknownEndpoint(name: string, path = '/endpoint'): AppError {
  const message = `there is no endpoint "${name}"; register it with PUT /endpoints/${name}`
  return new AppError('endpoint_not_found', message, { status: 422, errors: [{ path, message }] })
}
