// The difference that one endpoint or schedule makes, in lines: apply shows it before it writes,
// endpoints put and set show it afterwards.
import { cleaned, painted, say } from '../shown.ts'
import type { Step } from './plan.ts'

/** Of a value in the difference so much is shown. */
const MAX_VALUE_LENGTH = 60

export type ShownStep = Pick<Step, 'kind' | 'name' | 'version' | 'changes'>

export function sayStep(step: ShownStep): void {
  const { kind, name, version, changes } = step
  if (version === null) say(painted(`+ ${kind} ${name}`, 'green'))
  else if (changes.length === 0) say(painted(`= ${kind} ${name}`, 'dim'))
  else say(painted(`~ ${kind} ${name}`, 'yellow'))
  for (const { field, before, after } of changes) {
    say(`    ${field}: ${shortText(before)} → ${shortText(after)}`)
  }
}

function shortText(value: unknown): string {
  const text = cleaned(JSON.stringify(value) ?? 'none')
  return text.length <= MAX_VALUE_LENGTH ? text : `${text.slice(0, MAX_VALUE_LENGTH)}…`
}
