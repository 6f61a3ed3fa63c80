// The difference of two values in lines, such that both sides of a line never look the same: of
// long objects and lists only the parts that differ, of long texts the part around the difference.
import { isDeepStrictEqual } from 'node:util'
import { isMapping } from '../document.ts'
import { visibleJson } from '../output.ts'

/** Of a value so much is shown. */
const MAX_LENGTH = 60
/** Before the first character that differs. */
const LEAD = 20

/** @param path of the field, like `retry.backoff` */
export function differenceLines(path: string, before: unknown, after: unknown): string[] {
  const texts = [before, after].map((one) => [...visibleJson(one)])
  const [old = [], fresh = []] = texts
  if (texts.some(({ length }) => length > MAX_LENGTH)) {
    const parts = differingParts(path, before, after)
    if (parts !== null) return parts
  }
  const from = Math.max(0, firstDifference(old, fresh) - LEAD)
  return [`${path}: ${cut(old, from)} → ${cut(fresh, from)}`]
}

/** null: they have no parts in common. */
function differingParts(path: string, before: unknown, after: unknown): string[] | null {
  if (isMapping(before) && isMapping(after)) {
    const names = new Set([...Object.keys(before), ...Object.keys(after)])
    return [...names].flatMap((name) =>
      isDeepStrictEqual(before[name], after[name])
        ? []
        : differenceLines(`${path}${step(name)}`, before[name], after[name]),
    )
  }
  // Of lists of other lengths nobody knows which items belong together.
  if (!Array.isArray(before) || !Array.isArray(after) || before.length !== after.length) return null
  return before.flatMap((one, i) =>
    isDeepStrictEqual(one, after[i]) ? [] : differenceLines(`${path}[${i}]`, one, after[i]),
  )
}

function step(name: string): string {
  return /^[\w-]+$/.test(name) ? `.${name}` : `[${visibleJson(name)}]`
}

function firstDifference(one: readonly string[], other: readonly string[]): number {
  const found = one.findIndex((character, i) => character !== other[i])
  return found === -1 ? one.length : found
}

function cut(text: readonly string[], from: number): string {
  if (text.length <= MAX_LENGTH) return text.join('')
  const part = text.slice(from, from + MAX_LENGTH).join('')
  return `${from > 0 ? '…' : ''}${part}${from + MAX_LENGTH < text.length ? '…' : ''}`
}
