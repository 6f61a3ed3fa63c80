// posthorn apply: creates and changes limits, endpoints and schedules to match a file, and prints
// the difference first.
import {
  type EndpointSettings,
  type Posthorn,
  PosthornError,
  type ScheduleSettings,
  type SharedLimitSettings,
} from '../../src/client/client.ts'
import { printStep } from '../apply/difference.ts'
import { isUnchanged, planOf, readItems, type Step } from '../apply/plan.ts'
import { refusalsOf } from '../apply/probe.ts'
import { action } from '../command.ts'
import { CommandFailed, EXIT } from '../exit.ts'
import { printError, printLine } from '../output.ts'
import { connect } from '../server.ts'

export const command = action({
  summary: 'Create and change endpoints, limits and schedules to match a file',
  arguments: ['FILE'],
  options: { 'dry-run': { type: 'boolean', help: 'only print the difference' } },
  details: `FILE is YAML or JSON: limits, endpoints and schedules by name, with the fields of the
API. A field that is left out gets its default. Records that the file does not name stay
unchanged.`,
  examples: ['posthorn apply posthorn.yaml --dry-run'],
  async run({ words: [file = ''], values }) {
    const posthorn = connect()
    const items = await readItems(file, posthorn)
    const steps = await planOf(posthorn, items)
    for (const step of steps) printStep(step)
    const due = steps.filter((step) => !isUnchanged(step))
    if (due.length === 0) {
      printLine('no change')
      return EXIT.done
    }
    await refuseAsServer(posthorn, due)
    const isDry = values['dry-run'] === true
    if (!isDry) await applyAll(posthorn, due)
    printLine(`${countText(steps)}${isDry ? '; nothing was done (--dry-run)' : ''}`)
    return EXIT.done
  },
})

function countText(steps: Step[]): string {
  const created = steps.filter(({ version }) => version === null).length
  const unchanged = steps.filter(isUnchanged).length
  const changed = steps.length - created - unchanged
  return `${created} new, ${changed} changed, ${unchanged} unchanged`
}

/** Throws before anything is changed, if the server would refuse a part. */
async function refuseAsServer(posthorn: Posthorn, due: Step[]): Promise<void> {
  const refusals = await refusalsOf(due, (step, options) => put(posthorn, step, options))
  if (refusals.length === 0) return
  throw new CommandFailed(`Nothing was done; the server refuses:\n  ${refusals.join('\n  ')}`)
}

/**
 * Applies the steps one after another. If one fails, those before it are done, and another run does
 * the rest.
 */
async function applyAll(posthorn: Posthorn, due: Step[]): Promise<void> {
  let done = 0
  for (const step of due) {
    try {
      await put(posthorn, step, conditionOf(step))
      done++
    } catch (error) {
      if (!(error instanceof PosthornError)) throw error
      printError(`${done} of ${due.length} done, then ${step.kind} ${step.name} failed.`)
      if (error.code !== 'precondition_failed') throw error
      const change = step.version === null ? 'created' : 'changed'
      throw new CommandFailed(
        `${step.kind} ${step.name} was ${change} by another client meanwhile: review the difference, and apply again.`,
      )
    }
  }
}

type Condition = { ifAbsent: true } | { ifVersion: number }

/** Replaces only the version that was read; creates only what is still absent. */
function conditionOf({ version }: Step): Condition {
  return version === null ? { ifAbsent: true } : { ifVersion: version }
}

async function put(
  posthorn: Posthorn,
  { kind, name, given }: Step,
  options: Condition,
): Promise<void> {
  switch (kind) {
    case 'limit':
      await posthorn.limits.put(name, given as SharedLimitSettings, options)
      break
    case 'endpoint':
      await posthorn.endpoints.put(name, given as unknown as EndpointSettings, options)
      break
    case 'schedule':
      await posthorn.schedules.put(name, given as unknown as ScheduleSettings, options)
      break
    default:
      throw new Error(`unknown kind ${kind satisfies never}`)
  }
}
