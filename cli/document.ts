// A file of settings, YAML or JSON, as the values of JSON: what JSON can not carry is refused.
import { parse } from 'yaml'
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
  try {
    // Of YAML 1.2, which JSON is a part of: no dates, no yes and no; a name stands once.
    const value = parse(text, { schema: 'core', maxAliasCount: 100 })
    refuseInexact(value)
    return value
  } catch (error) {
    const [sentence = ''] = (error as Error).message.split('\n')
    throw new UsageError(`${path} can not be read: ${sentence.replace(/[:.]$/, '')}.`)
  }
}

/** Better no number than another one. */
function refuseInexact(value: unknown): void {
  if (typeof value === 'number') {
    const isExact = Number.isInteger(value) ? Number.isSafeInteger(value) : Number.isFinite(value)
    if (!isExact) throw new Error(`${value} can not be carried exactly; make it a text`)
  } else if (typeof value === 'object' && value !== null) {
    for (const one of Object.values(value)) refuseInexact(one)
  }
}
