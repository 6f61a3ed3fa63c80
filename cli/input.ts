// Reads the files, the standard input, and the numbers, durations and words of options.
import { createReadStream } from 'node:fs'
import { parseDuration } from '../src/job/duration.ts'
import { UsageError } from './exit.ts'

const STDIN = '-'
/** The largest body that a server can be configured to accept. */
const MAX_BYTES = 8 * 1_048_576

/** The name for messages. */
export function inputName(path: string): string {
  return path === STDIN ? 'the standard input' : path
}

/** The bytes of a file, or of the standard input for `-`. @throws UsageError */
export async function readInput(path: string): Promise<Buffer> {
  const what = inputName(path)
  try {
    const bytes = await limited(path === STDIN ? process.stdin : createReadStream(path))
    if (bytes !== null) return bytes
  } catch (error) {
    throw new UsageError(`${what} cannot be read: ${(error as Error).message}.`)
  }
  throw new UsageError(`${what} is longer than 8 MiB, more than any server accepts.`)
}

/**
 * Returns null if the input is longer than any server accepts. Then it does not read on, to spare
 * the memory.
 */
async function limited(stream: AsyncIterable<Buffer>): Promise<Buffer | null> {
  const chunks: Buffer[] = []
  let length = 0
  for await (const chunk of stream) {
    length += chunk.byteLength
    if (length > MAX_BYTES) return null
    chunks.push(chunk)
  }
  return Buffer.concat(chunks)
}

/** @param option as it was typed, like `--limit` */
export function wholeNumber(option: string, text: string, min: number, max: number): number {
  const value = Number(text)
  if (/^\d+$/.test(text) && value >= min && value <= max) return value
  throw new UsageError(`${option} is "${text}"; expected a whole number from ${min} to ${max}.`)
}

export function durationMs(option: string, text: string): number {
  const valueMs = parseDuration(text)
  if (valueMs !== null) return valueMs
  throw new UsageError(`${option} is "${text}"; expected a duration like 500ms, 15s or 1h30m.`)
}

export function oneOf<const T extends string>(
  option: string,
  text: string,
  words: readonly T[],
): T {
  const found = words.find((word) => word === text)
  if (found !== undefined) return found
  throw new UsageError(`${option} is "${text}"; expected one of ${words.join(', ')}.`)
}
