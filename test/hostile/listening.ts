// Everything that a process has written, byte for byte.
import type { Process } from '../support/process.ts'

/** Collects output from now on. Must be called before the process writes anything. */
export function listenTo({ child, stderr }: Process): {
  stdout: () => string
  stderr: () => string
} {
  const chunks: Buffer[] = []
  child.stdout?.on('data', (chunk: Buffer) => chunks.push(chunk))
  return { stdout: () => Buffer.concat(chunks).toString(), stderr }
}

/**
 * Control characters that terminals interpret (C0 except the line feed, DEL, C1), and other line
 * ends.
 */
// biome-ignore lint/suspicious/noControlCharactersInRegex: these are what is looked for
const CONTROL = /[\u0000-\u0009\u000b-\u001f\u007f-\u009f\u2028\u2029]/

/**
 * Epoch milliseconds from 2001 to 2286. No line may contain them: instants are logged as ISO 8601.
 */
const EPOCH_MS = /[:[,]\s*[1-9]\d{12}(\.\d+)?\s*[,}\]]/

/** The problems of a log: each line must be one JSON object. */
export function logProblems(stdout: string): string[] {
  const lines = stdout.split('\n')
  const unfinished = lines.pop()
  return [
    ...(unfinished === '' ? [] : [`no line end behind ${unfinished}`]),
    ...lines.filter((line) => !isObject(line)).map((line) => `not one object: ${line}`),
    ...lines.filter((line) => CONTROL.test(line)).map((line) => `a control character in ${line}`),
    ...lines.filter((line) => EPOCH_MS.test(line)).map((line) => `epoch milliseconds in ${line}`),
  ]
}

function isObject(line: string): boolean {
  try {
    const value = JSON.parse(line)
    return typeof value === 'object' && value !== null && !Array.isArray(value)
  } catch (error) {
    if (error instanceof SyntaxError) return false
    throw error
  }
}
