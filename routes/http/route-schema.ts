// Zod behind Fastify: schemas check what comes in, and describe it in openapi.json.
import type { FastifySchemaCompiler } from 'fastify'
import { z } from 'zod'
import { AppError, type FieldError, shortened } from '../../src/errors.ts'

/** Fastify's names for the parts of a request, and how a path into each begins. */
const PATH_PREFIXES: Record<string, string> = {
  body: '',
  querystring: 'query',
  headers: 'header',
  params: 'path',
}

export const validatorCompiler: FastifySchemaCompiler<z.ZodType> = ({ schema, httpPart }) => {
  const prefix = PATH_PREFIXES[httpPart ?? 'body'] ?? ''
  return (data: unknown) => {
    const checked = schema.safeParse(data)
    if (checked.success) return { value: checked.data }
    return { error: invalidRequest(checked.error, prefix) }
  }
}

/** The 400 for what zod found: the first sentence as detail, all of them as field errors. */
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

/** More would help nobody, and could be made as many as the body is long. */
const MAX_FIELD_ERRORS = 20

function fieldErrors(issue: z.core.$ZodIssue, prefix: string): FieldError[] {
  if (issue.code === 'unrecognized_keys') {
    return issue.keys.slice(0, MAX_FIELD_ERRORS).map((key) => ({
      path: pointer([...issue.path, key], prefix),
      message: 'this field is not known',
    }))
  }
  return [{ path: pointer(issue.path, prefix), message: issue.message }]
}

/** JSON Pointer (RFC 6901) into the body; `query/limit` and the like for the other parts. */
function pointer(path: PropertyKey[], prefix: string): string {
  const steps = path.map((step) =>
    shortened(String(step)).replaceAll('~', '~0').replaceAll('/', '~1'),
  )
  return prefix === '' ? steps.map((step) => `/${step}`).join('') : [prefix, ...steps].join('/')
}

/** The OpenAPI 3.1 form of a zod schema, as a client writes it. */
export function jsonSchemaOf(schema: z.ZodType): Record<string, unknown> {
  const { $schema, ...json } = z.toJSONSchema(schema, {
    io: 'input',
    unrepresentable: 'any',
    target: 'draft-2020-12',
  })
  return withoutObjectDefaults(json) as Record<string, unknown>
}

/**
 * Generators of clients refuse an object as a default, and leave out the whole operation: what such
 * a field is by default is said in its description.
 */
function withoutObjectDefaults(node: unknown): unknown {
  if (Array.isArray(node)) return node.map(withoutObjectDefaults)
  if (!isObject(node)) return node
  const { default: byDefault, ...rest } = Object.fromEntries(
    Object.entries(node).map(([key, value]) => [key, withoutObjectDefaults(value)]),
  )
  const isKept = byDefault !== undefined && !(isSchema(rest) && isObject(byDefault))
  return isKept ? { ...rest, default: byDefault } : rest
}

/** Not a map of properties, one of which may be called `default`. */
function isSchema(node: Record<string, unknown>): boolean {
  return 'type' in node || 'anyOf' in node || 'oneOf' in node
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}
