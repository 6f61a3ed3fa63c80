// The differences between the records of two stores that ran the same script.
import type { Recorded } from './fixture.ts'

/** One line for each difference: the step, the path, and both values. */
export function differencesOf(sqlite: Recorded[], mongo: Recorded[]): string[] {
  return sqlite.flatMap((one, i) => between(one.step, one, mongo[i]))
}

function between(path: string, a: unknown, b: unknown): string[] {
  if (JSON.stringify(a) === JSON.stringify(b)) return []
  if (!isRecord(a) || !isRecord(b)) {
    return [`${path}: SQLite ${JSON.stringify(a)}, MongoDB ${JSON.stringify(b)}`]
  }
  const keys = [...new Set([...Object.keys(a), ...Object.keys(b)])]
  return keys.flatMap((key) => between(`${path} > ${key}`, a[key], b[key]))
}

function isRecord(value: unknown): value is Record<string, unknown> {
  return typeof value === 'object' && value !== null
}
