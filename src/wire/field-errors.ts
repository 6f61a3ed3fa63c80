// What is said of a field that a schema refuses, where the schema itself has no sentence for it.
import type { z } from 'zod'
import { shortened } from '../errors.ts'

/** Of a JSON value, by what the schemas call it. */
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

/** Instead of zod's own messages, which speak of types and records. */
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
