// The routes and objects of docs/api.md, printed from openapi.json: a field stands there as its
// schema has it. Run `npm run openapi` first.
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { table } from './markdown-table.ts'

// biome-ignore lint/suspicious/noExplicitAny: a document read as JSON
type Json = any

/** The order of a first reader: jobs need endpoints, but are what one comes for. */
const SECTIONS: Record<string, string[]> = {
  Jobs: ['jobs'],
  Groups: ['groups'],
  Endpoints: ['endpoints'],
  'Shared limits': ['limits'],
  Schedules: ['schedules'],
  Keys: ['keys'],
  'Stats, workers and metrics': ['stats', 'workers', 'metrics'],
  'Health and pages': ['health', 'service', 'openapi', 'docs', 'dashboard'],
}

/** `a, b and c`. */
const LIST = new Intl.ListFormat('en-GB')

const SCOPES: Record<string, string> = {
  admin: 'a key with the scope `admin`',
  enqueue: 'a key with the scope `enqueue` or `admin`',
  work: 'a key with the scope `work` or `admin`',
  token: 'the token of the attempt, as `?token=` or `Authorization: Bearer`',
  none: 'no key',
}

/** Every route; its tag decides where it stands, and an unknown tag is an error. */
export function routesText(): string {
  const document = openapi()
  const operations = Object.entries<Json>(document.paths).flatMap(([path, methods]) =>
    Object.entries<Json>(methods).map(([method, operation]) => ({ path, method, operation })),
  )
  const tags = Object.values(SECTIONS).flat()
  const unknown = operations.filter(({ operation }) => !tags.includes(operation.tags[0]))
  if (unknown.length > 0) throw new Error(`no section for ${unknown[0]?.path}`)
  const sections = Object.entries(SECTIONS).map(([title, inSection]) => ({
    title,
    routes: operations.filter(({ operation }) => inSection.includes(operation.tags[0])),
  }))
  const index = sections.flatMap(({ routes }) =>
    routes.map((route) => [`[${titleOf(route)}](#${anchorOf(route)})`, route.operation.summary]),
  )
  const texts = sections.map(
    ({ title, routes }) => `## ${title}\n\n${routes.map(routeText).join('')}`,
  )
  return `## All routes\n\n${table(['route', 'what it does'], index)}\n${texts.join('')}`
}

function titleOf({ path, method }: Route): string {
  return `${method.toUpperCase()} ${path.replaceAll(/\{(\w+)\}/g, ':$1')}`
}

/** As GitHub makes it of the title. */
function anchorOf(route: Route): string {
  return titleOf(route)
    .toLowerCase()
    .replaceAll(/[^a-z0-9 -]/g, '')
    .replaceAll(' ', '-')
}

interface Route {
  path: string
  method: string
  operation: Json
}

function routeText(route: Route): string {
  const { operation } = route
  const body = operation.requestBody
  const parts = [
    `### ${titleOf(route)}`,
    `${operation.summary}. Needs ${SCOPES[operation['x-scope']]}.`,
    parametersText(operation.parameters ?? []),
    body === undefined ? '' : bodyText(body),
    responsesText(operation.responses),
    errorsText(operation.responses),
  ]
  return parts
    .filter((part) => part !== '')
    .map((part) => `${part.trimEnd()}\n\n`)
    .join('')
}

function parametersText(parameters: Json[]): string {
  const rows = parameters
    .filter((one) => one.in !== 'path')
    .map((one) => [
      `\`${one.name}\``,
      one.in,
      typeOf(one.schema),
      defaultOf(one.schema, one.required),
      meaningOf(one),
    ])
  return rows.length === 0 ? '' : table(['parameter', 'in', 'type', 'default', 'meaning'], rows)
}

function bodyText({ required, content }: Json): string {
  const rows = fieldRows(content['application/json'].schema).map(({ path, field, isRequired }) => [
    `\`${path}\``,
    typeOf(field),
    defaultOf(field, isRequired),
    meaningOf(field),
  ])
  if (rows.length === 0) return 'Body: none, or an empty object.'
  const note = required === false ? 'The body is optional.\n\n' : ''
  return note + table(['field', 'type', 'default', 'meaning'], rows)
}

function responsesText(responses: Json): string {
  const own = Object.keys(responses).filter(
    (status) => /^[23]/.test(status) || responses[status].content?.['application/json'],
  )
  const lines = own.map((status) => `- **${status}**: ${responseText(responses[status])}`)
  return lines.join('\n')
}

function responseText({ description, headers, content }: Json): string {
  const named = Object.keys(headers ?? {}).filter((name) => name !== 'x-request-id')
  const withHeaders =
    named.length === 0 ? '' : `, with ${LIST.format(named.map((name) => `\`${name}\``))}`
  if (content === undefined) return `${description}, no body${withHeaders}`
  const [type, { schema }] = Object.entries<Json>(content)[0] as [string, Json]
  if (type !== 'application/json') return `\`${type}\`${withHeaders}`
  const variants = variantsOf(schema)
  if (variants.every(({ $ref }) => $ref !== undefined)) {
    return `${variants.map(({ $ref }) => linkTo($ref)).join(' or ')}${withHeaders}`
  }
  const fields = fieldRows(schema).map(({ path, field }) => `\`${path}\` (${typeOf(field)})`)
  return `${fields.length === 0 ? description : fields.join(', ')}${withHeaders}`
}

/** From the descriptions, which a test compares with the codes that there are. */
function errorsText(responses: Json): string {
  const lines = Object.keys(responses)
    .filter((status) => /^[45]/.test(status))
    .flatMap((status) => {
      const codes = [...responses[status].description.matchAll(/`([a-z_]+)`:/g)]
      return codes.length === 0
        ? []
        : `${codes.map(([, code]) => `\`${code}\``).join(' ')} ${status}`
    })
  return `Errors: ${lines.join(', ')}.`
}

/** Objects that others repeat with some fields more or less. */
const BASES = ['Job', 'Schedule']

/** Every object that routes refer to, with its fields. */
export function objectsText(): string {
  const { schemas } = openapi().components
  const bases: [string, Json][] = BASES.map((name) => [name, schemas[name]])
  return Object.entries<Json>(schemas)
    .map(([name, schema]) => {
      const others = bases.filter(([base]) => base !== name)
      const like = likeOf(schema, others)
      const rows = fieldRows(like?.extra ?? schema, '', others).map(
        ({ path, field, isRequired }) => [
          `\`${path}\``,
          typeOf(field, others),
          `${meaningOf(field)}${isRequired ? '' : ' (optional)'}`,
        ],
      )
      const note = like === null ? '' : `The fields of ${like.text}\n\n`
      const fields = rows.length === 0 ? '' : `${table(['field', 'type', 'meaning'], rows)}\n`
      return `### ${name}\n\n${note}${fields}`
    })
    .join('')
}

interface Like {
  /** What it has in common with a base. */
  text: string
  extra: Json
}

/** An object that has all fields of a base, or nearly all and no others; null: there is none. */
function likeOf(schema: Json, bases: [string, Json][]): Like | null {
  const own = Object.keys(schema.properties ?? {})
  for (const [name, base] of bases) {
    const fields = Object.keys(base.properties)
    const more = own.filter((field) => !fields.includes(field))
    const less = fields.filter((field) => !own.includes(field))
    const properties = Object.fromEntries(more.map((field) => [field, schema.properties[field]]))
    const extra = { ...schema, properties }
    const link = `[${name}](#${name.toLowerCase()})`
    if (less.length === 0) return { text: `${link}, and:`, extra }
    const without = less.map((field) => `\`${field}\``).join(', ')
    if (more.length === 0 && own.length > less.length)
      return { text: `${link} without ${without}.`, extra }
  }
  return null
}

interface FieldRow {
  path: string
  field: Json
  isRequired: boolean
}

/** Each field with those within it, as `retry.maxAttempts` and `attempts[].outcome`. */
function fieldRows(schema: Json, prefix = '', bases: [string, Json][] = []): FieldRow[] {
  const rows = new Map<string, FieldRow>()
  const objects = objectsOf(schema)
  for (const { properties, required = [] } of objects) {
    for (const [name, field] of Object.entries<Json>(properties)) {
      const path = `${prefix}${name}`
      // One alternative may lack what another requires.
      const isRequired = objects.length === 1 && required.includes(name)
      const known = rows.get(path)?.field
      const whole = known === undefined ? field : merged(known, field)
      rows.set(path, { path, field: whole, isRequired })
      for (const row of rowsWithin(field, path, bases)) {
        if (!rows.has(row.path)) rows.set(row.path, row)
      }
    }
  }
  return [...rows.values()]
}

function rowsWithin(field: Json, path: string, bases: [string, Json][]): FieldRow[] {
  const list = variantsOf(field).find(({ items }) => items !== undefined)
  if (list === undefined) return fieldRows(field, `${path}.`)
  return fieldRows(likeOf(list.items, bases)?.extra ?? list.items, `${path}[].`, bases)
}

/** A field of several alternatives: what each of them allows. */
function merged(one: Json, other: Json): Json {
  if (one.enum === undefined || other.enum === undefined) return one
  return { ...one, enum: [...new Set([...one.enum, ...other.enum])] }
}

function objectsOf(schema: Json): Json[] {
  return variantsOf(schema).filter(({ properties }) => properties !== undefined)
}

function variantsOf(schema: Json): Json[] {
  const inner = schema.anyOf ?? schema.oneOf
  return inner === undefined ? [schema] : inner.flatMap(variantsOf)
}

function typeOf(schema: Json, bases: [string, Json][] = []): string {
  const names = variantsOf(schema).map((one) => plainTypeOf(one, bases))
  return [...new Set(names)].join(' or ') || 'any JSON'
}

function plainTypeOf(schema: Json, bases: [string, Json][]): string {
  if (schema.$ref !== undefined) return linkTo(schema.$ref)
  if (schema.enum !== undefined) {
    return schema.enum.map((value: unknown) => `\`${JSON.stringify(value)}\``).join(' ')
  }
  if (Array.isArray(schema.type)) return schema.type.join(' or ')
  switch (schema.type) {
    case 'string':
      return stringType(schema)
    case 'integer':
    case 'number':
      return [schema.type, numbersOf(schema)].filter((part) => part !== '').join(', ')
    case 'array':
      return listType(schema, bases)
    case 'object':
      return objectType(schema)
    default:
      return schema.type ?? 'any JSON'
  }
}

function stringType(schema: Json): string {
  if (schema['x-range'] !== undefined) return `duration, ${schema['x-range']}`
  if (schema.format === 'date-time') return 'instant'
  if (schema.pattern?.startsWith('^[a-z0-9][a-z0-9._-]')) return 'name'
  const size = rangeOf(schema.minLength, schema.maxLength)
  return size === '' ? 'string' : `string of ${size} characters`
}

function listType({ items, minItems, maxItems }: Json, bases: [string, Json][]): string {
  const like = likeOf(items, bases)
  if (like !== null)
    return `list of ${like.text.replace(/\.$/, '').replace(', and:', ' with the fields below')}`
  const size = rangeOf(minItems, maxItems)
  return size === '' ? `list of ${typeOf(items)}` : `list of ${size}: ${typeOf(items)}`
}

function objectType({ properties, additionalProperties, maxProperties }: Json): string {
  if (properties !== undefined) return 'object'
  const values = typeOf(additionalProperties ?? {})
  if (values === 'any JSON') return 'object'
  return `object of ${rangeOf(0, maxProperties) || 'values'}: ${values}`
}

function numbersOf({ minimum, maximum }: Json): string {
  return minimum === 0 ? `0–${maximum}` : rangeOf(minimum, maximum)
}

/** What zod writes for "any safe integer" limits nothing. */
function rangeOf(least: number | undefined, most: number | undefined): string {
  if (most === undefined || most === Number.MAX_SAFE_INTEGER) return ''
  const [from, to] = [least ?? 0, most].map((value) => value.toLocaleString('en'))
  return from === '0' ? `at most ${to}` : `${from}–${to}`
}

function defaultOf(schema: Json, isRequired: boolean): string {
  if (isRequired) return 'required'
  return schema.default === undefined ? '' : `\`${JSON.stringify(schema.default)}\``
}

/** Without the range of a duration, which is its type. */
function meaningOf({ description = '' }: Json): string {
  return description.replace(/; a duration like .*$/, '')
}

function linkTo(reference: string): string {
  const name = reference.split('/').at(-1) as string
  return `[${name}](#${name.toLowerCase()})`
}

function openapi(): Json {
  const path = join(import.meta.dirname, '../openapi/openapi.json')
  return JSON.parse(readFileSync(path, 'utf8'))
}
