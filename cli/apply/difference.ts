// Prints the difference that one endpoint or schedule makes. apply prints it before it writes,
// endpoints put and set afterwards. Both sides of a line always look different. If a value is long,
// only the parts of an object or list that differ are printed, or the part of a text around the
// difference.
import { isDeepStrictEqual } from 'node:util'
import { isMapping } from '../document.ts'
import { painted, printLine, visibleJson } from '../output.ts'
import type { Step } from './plan.ts'

/** Longer values are cut. */
const MAX_LENGTH = 60
/** Characters that are kept before the first one that differs. */
const LEAD = 20

export function printStep(step: Pick<Step, 'kind' | 'name' | 'version' | 'changes'>): void {
  const { kind, name, version, changes } = step
  if (version === null) printLine(painted(`+ ${kind} ${name}`, 'green'))
  else if (changes.length === 0) printLine(painted(`= ${kind} ${name}`, 'dim'))
  else printLine(painted(`~ ${kind} ${name}`, 'yellow'))
  for (const { field, before, after } of changes) {
    for (const line of differenceLines(field, before, after)) printLine(`    ${line}`)
  }
}

/** @param path the field, like `retry.backoff` */
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

/** null: the values have no parts that can be compared one by one. */
function differingParts(path: string, before: unknown, after: unknown): string[] | null {
  if (isMapping(before) && isMapping(after)) {
    const names = new Set([...Object.keys(before), ...Object.keys(after)])
    return [...names].flatMap((name) =>
      isDeepStrictEqual(before[name], after[name])
        ? []
        : differenceLines(`${path}${step(name)}`, before[name], after[name]),
    )
  }
  // If the lengths differ, it is unknown which items belong together.
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
