// Reads a settings file in YAML or JSON. It refuses what JSON cannot express, and reports all
// faults together, each with its line.
import {
  type Document,
  isAlias,
  isMap,
  isNode,
  isScalar,
  isSeq,
  LineCounter,
  type Node,
  parseDocument,
  visit,
} from 'yaml'
import { UsageError } from './exit.ts'
import { inputName, readInput } from './input.ts'

export interface Fault {
  /** null: unknown. */
  line: number | null
  /** One sentence without a full stop. */
  text: string
}

export interface SettingsFile {
  fields: Record<string, unknown>
  /** Values that JSON cannot express. The rest of the file can be checked all the same. */
  faults: Fault[]
  /** The line of this path, or of the longest part of it that exists; null: none exists. */
  lineOf(path: readonly PropertyKey[]): number | null
}

/** The file must be one mapping. @throws UsageError if it is not, or cannot be read */
export async function readSettingsFile(path: string): Promise<SettingsFile> {
  const text = utf8(path, await readInput(path))
  const lines = new LineCounter()
  // YAML 1.2 includes JSON, and has no dates, no yes and no, and no duplicate names. `silent` is
  // not used, because it would drop all documents except the first.
  const document = parseDocument(text, {
    ...({ schema: 'core', logLevel: 'error', lineCounter: lines } as const),
    prettyErrors: false,
  })
  refuseFaults(path, unreadable(document, lines))
  const faults = faultsOf(document, lines)
  const fields = jsonValue(path, document, faults)
  if (!isMapping(fields)) {
    throw new UsageError(`${inputName(path)} is not a mapping; expected names and values.`)
  }
  return { fields, faults, lineOf: (wanted) => lineAt(document, lines, wanted) }
}

/** @throws UsageError with all faults */
export async function readDocument(path: string): Promise<Record<string, unknown>> {
  const { fields, faults } = await readSettingsFile(path)
  refuseFaults(path, faults)
  return fields
}

/** @throws UsageError unless there are none */
export function refuseFaults(path: string, faults: readonly Fault[], further: string[] = []): void {
  if (faults.length === 0) return
  const lines = faults
    .toSorted((one, other) => (one.line ?? 0) - (other.line ?? 0))
    .map(({ line, text }) => (line === null ? text : `line ${line}: ${text}`))
  throw new UsageError([`${inputName(path)} is wrong:`, ...lines, ...further].join('\n  '))
}

/** A lenient decoder would replace bytes that are not UTF-8. */
function utf8(path: string, bytes: Uint8Array): string {
  try {
    return new TextDecoder('utf-8', { fatal: true }).decode(bytes)
  } catch {
    throw new UsageError(`${inputName(path)} is not UTF-8.`)
  }
}

export function isMapping(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null && !Array.isArray(value)
}

/** Faults after which nothing else can be checked. */
function unreadable(document: Document, lines: LineCounter): Fault[] {
  const faults = [...document.errors, ...document.warnings]
    // faultOfTag reports each tag.
    .filter(({ code }) => code !== 'TAG_RESOLVE_FAILED')
    .map(({ code, message, pos }) => ({
      line: lines.linePos(pos[0]).line,
      text: code === 'MULTIPLE_DOCS' ? MORE_DOCUMENTS : message.replace(/[:.]$/, ''),
    }))
  if (document.directives?.yaml.version !== '1.2') {
    faults.push({ line: 1, text: 'it is not YAML 1.2' })
  }
  visit(document, {
    Alias(_, node, path) {
      const isInItself = path.some(
        (one) => isNode(one) && 'anchor' in one && one.anchor === node.source,
      )
      if (isInItself) {
        faults.push({
          line: lineOfNode(node, lines) ?? 1,
          text: `*${node.source} contains itself`,
        })
      }
    },
  })
  return faults
}

const MORE_DOCUMENTS = 'it has more than one document; use one file for each'

function faultsOf(document: Document, lines: LineCounter): Fault[] {
  const faults: Fault[] = []
  const note = (node: unknown, text: string | null) => {
    if (text !== null) faults.push({ line: lineOfNode(node, lines), text })
  }
  visit(document, {
    Pair: (_, { key }) => note(key, faultOfName(key)),
    Node: (place, node) =>
      note(node, faultOfTag(node) ?? (place === 'key' ? null : faultOfNumber(node))),
  })
  return faults
}

/** A few nested aliases can expand to more than fits into memory. */
const MAX_ALIASES = 100

function jsonValue(path: string, document: Document, faults: Fault[]): unknown {
  try {
    return document.toJS({ maxAliasCount: MAX_ALIASES })
  } catch (error) {
    refuseFaults(path, [...faults, { line: null, text: (error as Error).message }])
  }
}

/** Texts that YAML 1.1, which many programs still read, takes for booleans, dates or numbers. */
const READ_OTHERWISE = [
  /^(yes|no|on|off)$/i,
  /^\d{4}-\d\d?-\d\d?/,
  /^[-+]?(\d[\d_]*(\.[\d_]*)?|\.\d[\d_]*)(e[-+]?\d+)?$/i,
  /^[-+]?(0b[01_]+|0x[\da-f_]+|\d+(:[0-5]?\d)+(\.\d*)?)$/i,
]

/** A name that YAML reads as a number or as null would become another name: 007 would be 7. */
function faultOfName(key: unknown): string | null {
  if (!isScalar(key)) return 'a name is not text'
  if (key.type !== 'PLAIN' || key.tag !== undefined) return null
  const source = key.source ?? ''
  if (source === '<<') return 'merge keys (<<) are not supported; repeat the fields'
  const isText = typeof key.value === 'string'
  if (isText && !READ_OTHERWISE.some((shape) => shape.test(source))) return null
  // As a number it is written the same way, like an HTTP status.
  if (Number.isSafeInteger(key.value) && String(key.value) === source) return null
  const found = source === '' ? 'an empty name' : `the name ${source}`
  return `YAML does not read ${found} as text; quote it`
}

/** These tags change nothing, or make a value text. */
const TAGS = ['str', 'map', 'seq'].map((name) => `tag:yaml.org,2002:${name}`)

function faultOfTag(node: Node): string | null {
  if (isAlias(node) || node.tag === undefined || TAGS.includes(node.tag)) return null
  return `the tag ${node.tag} cannot be expressed in JSON`
}

/** A number that would change is refused. */
function faultOfNumber(node: Node): string | null {
  if (!isScalar(node) || typeof node.value !== 'number') return null
  const { value, source = String(value) } = node
  if (/^[-+]?0\d/.test(source)) {
    return `${source} begins with a zero; quote it, or remove the zero`
  }
  const isExact = Number.isInteger(value) ? Number.isSafeInteger(value) : Number.isFinite(value)
  return isExact ? null : `${source} cannot be represented exactly; quote it`
}

function lineAt(
  document: Document,
  lines: LineCounter,
  path: readonly PropertyKey[],
): number | null {
  let node: unknown = document.contents
  let line: number | null = null
  for (const step of path) {
    if (isAlias(node)) node = node.resolve(document)
    if (isMap(node)) {
      const pair = node.items.find(({ key }) => isScalar(key) && String(key.value) === String(step))
      if (pair === undefined) break
      line = lineOfNode(pair.key, lines)
      node = pair.value
    } else if (isSeq(node)) {
      node = node.items[Number(step)]
      line = lineOfNode(node, lines) ?? line
    } else break
  }
  return line
}

function lineOfNode(node: unknown, lines: LineCounter): number | null {
  const start = isNode(node) ? node.range?.[0] : undefined
  return start === undefined ? null : lines.linePos(start).line
}
