// A file of settings, YAML or JSON, as the values of JSON: what JSON cannot carry is refused.
import { isAlias, isNode, isScalar, LineCounter, type Node, parseDocument, visit } from 'yaml'
import { UsageError } from './exit.ts'
import { readInput } from './input.ts'

/** Every document of ours is a mapping. @throws UsageError */
export async function readDocument(path: string): Promise<Record<string, unknown>> {
  const value = parsed(path, utf8(path, await readInput(path)))
  if (isMapping(value)) return value
  throw new UsageError(`${path} holds no mapping; expected names and values.`)
}

/** A lenient decoder would put other characters in place of the bytes that it cannot read. */
function utf8(path: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw new UsageError(`${path} is not UTF-8.`)
  }
}

export function isMapping(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

function parsed(path: string, text: string): unknown {
  const lines = new LineCounter()
  try {
    // Of YAML 1.2, which JSON is a part of: no dates, no yes and no; a name stands once.
    // Not `silent`: it would drop all documents but the first.
    const options = { schema: 'core', logLevel: 'error', lineCounter: lines } as const
    const document = parseDocument(text, options)
    const [problem] = [...document.errors, ...document.warnings]
    if (problem?.code === 'MULTIPLE_DOCS') {
      throw new Error('it holds more than one document; give each a file of its own')
    }
    if (problem !== undefined) throw problem
    if (document.directives.yaml.version !== '1.2') throw new Error('it is not YAML 1.2')
    visit(document, {
      Pair: (_, { key }) => refuseName(key, lines),
      Node: (_, node, path) => refuseOther(node, path, lines),
    })
    const value: unknown = document.toJS({ maxAliasCount: MAX_ALIASES })
    refuseInexact(value)
    return value
  } catch (error) {
    const [sentence = ''] = (error as Error).message.split('\n')
    throw new UsageError(`${path} cannot be read: ${sentence.replace(/[:.]$/, '')}.`)
  }
}

/** An alias in an alias in an alias fills the memory. */
const MAX_ALIASES = 100

/** Texts that YAML 1.1, by which many programs still read, takes for booleans, dates, numbers. */
const READ_OTHERWISE = [
  /^(yes|no|on|off)$/i,
  /^\d{4}-\d\d?-\d\d?/,
  /^[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)(e[-+]?\d+)?$/i,
  /^[-+]?(0b[01_]+|0x[\da-f_]+|\d+(:[0-5]?\d)+(\.\d*)?)$/i,
]

/** A name that is read as a number or as null would be another name: 007 would be 7. */
function refuseName(key: unknown, lines: LineCounter): void {
  if (!isScalar(key)) throw new Error(`a name is no text${atLine(key, lines)}`)
  if (key.type !== 'PLAIN' || key.tag !== undefined) return
  const source = key.source ?? ''
  if (source === '<<') {
    throw new Error(`merge keys (<<) are not taken${atLine(key, lines)}; write the fields out`)
  }
  const isText = typeof key.value === 'string'
  if (isText && !READ_OTHERWISE.some((shape) => shape.test(source))) return
  // The name is the same as a number: a status, for instance.
  if (Number.isSafeInteger(key.value) && String(key.value) === source) return
  const found = source === '' ? 'an empty name' : `the name ${source}`
  throw new Error(`${found}${atLine(key, lines)} is not read as a text by YAML; quote it`)
}

function refuseOther(node: Node, path: readonly unknown[], lines: LineCounter): void {
  if (isAlias(node)) {
    const isInItself = path.some(
      (one) => isNode(one) && 'anchor' in one && one.anchor === node.source,
    )
    if (isInItself) throw new Error(`*${node.source} stands for itself${atLine(node, lines)}`)
    return
  }
  if (node.tag !== undefined && !TAGS.includes(node.tag)) {
    throw new Error(`the tag ${node.tag}${atLine(node, lines)} cannot be carried as JSON`)
  }
  if (isScalar(node) && typeof node.value === 'number' && /^[-+]?0\d/.test(node.source ?? '')) {
    throw new Error(
      `${node.source}${atLine(node, lines)} begins with a zero; quote it, or write the number without`,
    )
  }
}

/** They change nothing, or make a text. */
const TAGS = ['str', 'map', 'seq'].map((name) => `tag:yaml.org,2002:${name}`)

function atLine(node: unknown, lines: LineCounter): string {
  const start = isNode(node) ? node.range?.[0] : undefined
  return start === undefined ? '' : ` in line ${lines.linePos(start).line}`
}

/** Better no number than another one. */
function refuseInexact(value: unknown): void {
  if (typeof value === 'number') {
    const isExact = Number.isInteger(value) ? Number.isSafeInteger(value) : Number.isFinite(value)
    if (!isExact) throw new Error(`${value} cannot be carried exactly; make it a text`)
  } else if (typeof value === 'object' && value !== null) {
    for (const one of Object.values(value)) refuseInexact(one)
  }
}
