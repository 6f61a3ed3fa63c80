// The difference that one endpoint or schedule makes, in lines: apply shows it before it writes,
// endpoints put and set show it afterwards.
import { painted, printLine } from '../output.ts'
import type { Step } from './plan.ts'
import { differenceLines } from './value-difference.ts'

export type ShownStep = Pick<Step, 'kind' | 'name' | 'version' | 'changes'>

export function printStep(step: ShownStep): void {
  const { kind, name, version, changes } = step
  if (version === null) printLine(painted(`+ ${kind} ${name}`, 'green'))
  else if (changes.length === 0) printLine(painted(`= ${kind} ${name}`, 'dim'))
  else printLine(painted(`~ ${kind} ${name}`, 'yellow'))
  for (const { field, before, after } of changes) {
    for (const line of differenceLines(field, before, after)) printLine(`    ${line}`)
  }
}
