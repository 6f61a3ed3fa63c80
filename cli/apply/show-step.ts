// The difference that one endpoint or schedule makes, in lines: apply shows it before it writes,
// endpoints put and set show it afterwards.
import { painted, say } from '../shown.ts'
import type { Step } from './plan.ts'
import { differenceLines } from './value-difference.ts'

export type ShownStep = Pick<Step, 'kind' | 'name' | 'version' | 'changes'>

export function sayStep(step: ShownStep): void {
  const { kind, name, version, changes } = step
  if (version === null) say(painted(`+ ${kind} ${name}`, 'green'))
  else if (changes.length === 0) say(painted(`= ${kind} ${name}`, 'dim'))
  else say(painted(`~ ${kind} ${name}`, 'yellow'))
  for (const { field, before, after } of changes) {
    for (const line of differenceLines(field, before, after)) say(`    ${line}`)
  }
}
