// The operations of the API and everything that each of them reads, derived from openapi.json. So
// the tests cover a new route or field without a change.

// biome-ignore lint/suspicious/noExplicitAny: a document read as JSON
export type Json = any

export interface Operation {
  method: string
  /** The path with its parameters in braces. */
  path: string
  isOpen: boolean
  /** The names of the parameters in the path. */
  inPath: string[]
  inQuery: string[]
  inHeader: string[]
  /** Every place in the body that can have a value, each with a body that has a value there. */
  places: Place[]
  /** A valid body; undefined: the operation has no body. */
  body: Json
}

export interface Place {
  /** Names and positions, from the top of the body. */
  at: (string | number)[]
  /** A body that is valid except for the value at `at`, which a case replaces. */
  body: Json
}

/** Valid values that cannot be derived from the schema, by the name of the field. */
export interface Samples {
  [name: string]: Json
}

/**
 * Fields that a body gets in addition, unless it has the field `unless`, which excludes them. A
 * pause would hide the effect of later requests.
 */
const COMPANIONS: Record<string, { unless: string; give: object }> = {
  'PUT /schedules/{name}': { unless: 'every', give: { cron: '0 9 * * *', paused: false } },
  'PATCH /jobs/{id}': { unless: '', give: {} },
}

const SAMPLES_BY_PATTERN: [pattern: RegExp, sample: string][] = [
  [/\\d\+d/, '1s'],
  [/^\^\[a-z0-9\]/, 'known'],
]

/** @param document openapi.json as the API serves it */
export function operationsOf(document: Json, samples: Samples): Operation[] {
  return Object.entries<Json>(document.paths).flatMap(([path, methods]) =>
    Object.entries<Json>(methods).map(([method, operation]) =>
      operationOf(`${method.toUpperCase()} ${path}`, operation, samples),
    ),
  )
}

function operationOf(name: string, operation: Json, samples: Samples): Operation {
  const [method = '', path = ''] = name.split(' ')
  const schema = operation.requestBody?.content['application/json'].schema
  const names = (where: string): string[] =>
    (operation.parameters ?? [])
      .filter((one: Json) => one.in === where)
      .map((one: Json) => one.name as string)
  const { unless, give } = COMPANIONS[name] ?? { unless: '', give: {} }
  const places = schema === undefined ? [] : placesIn(schema, samples)
  return {
    method,
    path,
    isOpen: operation.security?.length === 0,
    inPath: names('path'),
    inQuery: names('query'),
    inHeader: names('header'),
    places: places.map(({ at, body }) =>
      at.length === 0 || at[0] === unless ? { at, body } : { at, body: { ...give, ...body } },
    ),
    body: schema === undefined ? undefined : { ...give, ...sampleOf(schema, samples, '') },
  }
}

/** Returns the root, each field of each branch, each item of a list, and each pair of a map. */
function placesIn(schema: Json, samples: Samples, name = ''): Place[] {
  const own: Place = { at: [], body: sampleOf(schema, samples, name) }
  return [own, ...placesBelow(schema, samples, name)]
}

function placesBelow(schema: Json, samples: Samples, name: string): Place[] {
  const branches: Json[] = schema.anyOf ?? schema.oneOf ?? []
  if (branches.length > 0) return branches.flatMap((one) => placesBelow(one, samples, name))
  if (schema.type === 'array') {
    return placesIn(schema.items, samples, name).map(({ at, body }) => ({
      at: [0, ...at],
      body: [body],
    }))
  }
  if (schema.type !== 'object') return []
  if (typeof schema.additionalProperties === 'object') {
    return placesIn(schema.additionalProperties, samples, name).map(({ at, body }) => ({
      at: ['x-one', ...at],
      body: { 'x-one': body },
    }))
  }
  const required = sampleOf(schema, samples, name)
  return Object.entries<Json>(schema.properties ?? {}).flatMap(([field, inner]) =>
    placesIn(inner, samples, field).map(({ at, body }) => ({
      at: [field, ...at],
      body: { ...required, [field]: body },
    })),
  )
}

/** The smallest valid value: the required fields and no others. */
function sampleOf(schema: Json, samples: Samples, name: string): Json {
  if (Object.hasOwn(samples, name)) return samples[name]
  const [branch] = schema.anyOf ?? schema.oneOf ?? []
  if (branch !== undefined) return sampleOf(branch, samples, name)
  if (schema.enum !== undefined) return schema.enum[0]
  switch (schema.type) {
    case 'string':
      return SAMPLES_BY_PATTERN.find(([pattern]) => pattern.test(schema.pattern))?.[1] ?? 'text'
    case 'integer':
    case 'number':
      return schema.minimum ?? 1
    case 'boolean':
      return true
    case 'array':
      return [sampleOf(schema.items, samples, name)]
    case 'object':
      return Object.fromEntries(
        (schema.required ?? []).map((field: string) => [
          field,
          sampleOf(schema.properties[field], samples, field),
        ]),
      )
    default:
      return {}
  }
}

/** The body as text, with `json` at the place. It works on text because some cases are not JSON. */
export function bodyWith({ at, body }: Place, json: string): string {
  if (at.length === 0) return json
  const mark = 'b9f1-the-place-of-the-hostile-value'
  return JSON.stringify(laidOver(body, at, mark)).replace(`"${mark}"`, () => json)
}

function laidOver(body: Json, [step, ...rest]: (string | number)[], value: Json): Json {
  if (step === undefined) return value
  const inner = laidOver(body?.[step], rest, value)
  if (typeof step === 'number') return [inner]
  return { ...body, [step]: inner }
}
