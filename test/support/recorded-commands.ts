// Records which commands each method of a MongoDB store sends, and prints their shapes: names of
// commands, collections, fields, operators and options, without the values.
import { AsyncLocalStorage } from 'node:async_hooks'
import type { CommandStartedEvent, Document, MongoClient } from 'mongodb'
import type { Store } from '../../src/store/store.ts'

/** One call of a method of a store. */
export interface VerbCall {
  /** The method, for example `settle` or `outbox.take`. */
  verb: string
  args: unknown[]
  /** In the order in which they were sent; `hello` is left out. */
  commands: Document[]
}

export interface RecordedStore {
  /** A store that records each call of its methods. */
  store: Store
  calls: VerbCall[]
}

const WIDTH = 100
/** Fields that every command has with the same value. */
const LEFT_OUT = new Set(['lsid', '$db', '$clusterTime'])
/** Below these fields, values are part of the shape. */
const SHOWN_BELOW =
  /^(hint|readConcern|writeConcern|sort|projection|ordered|multi|upsert|new|remove|state|phase|\$sort|\$project|\$exists)$/

/** @param before called before each call, which waits for it */
export function recordCalls(
  store: Store,
  client: MongoClient,
  before?: () => Promise<void>,
): RecordedStore {
  const calls: VerbCall[] = []
  const current = new AsyncLocalStorage<VerbCall>()
  client.on('commandStarted', ({ commandName, command }: CommandStartedEvent) => {
    if (commandName !== 'hello') current.getStore()?.commands.push(command)
  })
  const recorded = <T extends object>(target: T, prefix: string): T =>
    new Proxy(target, {
      get(_, name) {
        const value = Reflect.get(target, name)
        if (name === 'outbox' && value !== null) return recorded(value as object, 'outbox.')
        if (typeof value !== 'function' || name === 'onEnd' || name === 'onWork') return value
        return async (...args: unknown[]) => {
          await before?.()
          const call = { verb: `${prefix}${String(name)}`, args, commands: [] }
          calls.push(call)
          return current.run(call, () => value.apply(target, args))
        }
      },
    })
  return { store: recorded(store, ''), calls }
}

/** `find posthorn_jobs`, and one or more lines for each field of the command. */
export function shapeOf(command: Document): string {
  const [[name, collection] = ['', ''], ...fields] = Object.entries(command)
  const lines = fields
    .filter(([field]) => !LEFT_OUT.has(field))
    .map(([field, value]) => textOf(field, shapeOfValue(value, SHOWN_BELOW.test(field)), '  '))
  return [`${name} ${typeof collection === 'string' ? collection : ''}`.trim(), ...lines].join('\n')
}

/** The name of a type, a value that is part of the shape, or the shapes of a list or of fields. */
type Shape = string | Shape[] | Map<string, Shape>

function shapeOfValue(value: unknown, isShown: boolean): Shape {
  if (Array.isArray(value)) {
    const shapes = value.map((one) => shapeOfValue(one, isShown))
    // Equal shapes of a list are listed once.
    return [...new Map(shapes.map((shape) => [JSON.stringify(plainOf(shape)), shape])).values()]
  }
  if (value instanceof Map) return shapeOfValue(Object.fromEntries(value), isShown)
  if (value === null || typeof value === 'boolean') return String(value)
  if (typeof value !== 'object') return isShown ? String(value) : typeof value
  if (value instanceof Date) return 'date'
  if (value instanceof Uint8Array) return 'binary'
  if ('_bsontype' in value) return String(value._bsontype).toLowerCase()
  const fields = Object.entries(value).map(([field, inner]): [string, Shape] => [
    // A number in a field name is a position in an array, or a bound of a histogram.
    field.replaceAll(/\b\d+\b/g, 'N'),
    shapeOfValue(inner, isShown || SHOWN_BELOW.test(field)),
  ])
  return new Map(fields)
}

function plainOf(shape: Shape): unknown {
  if (shape instanceof Map) return [...shape].map(([field, inner]) => [field, plainOf(inner)])
  return Array.isArray(shape) ? shape.map(plainOf) : shape
}

function textOf(label: string, shape: Shape, indent: string): string {
  const start = label === '' ? indent : `${indent}${label}: `
  const short = start + shortOf(shape)
  if (short.length <= WIDTH || typeof shape === 'string') return short
  const inner = Array.isArray(shape)
    ? shape.map((one) => textOf('', one, `${indent}  `))
    : [...shape].map(([field, one]) => textOf(field, one, `${indent}  `))
  const [open, close] = Array.isArray(shape) ? ['[', ']'] : ['{', '}']
  return [`${start}${open}`, ...inner, `${indent}${close}`].join('\n')
}

function shortOf(shape: Shape): string {
  if (typeof shape === 'string') return shape
  if (Array.isArray(shape)) return `[${shape.map(shortOf).join(', ')}]`
  return `{${[...shape].map(([field, inner]) => `${field}: ${shortOf(inner)}`).join(', ')}}`
}
