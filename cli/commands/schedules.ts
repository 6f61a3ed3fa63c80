// posthorn schedules: reads and controls schedules, with a verb for each action.

import type { Job, Schedule, ScheduleSummary } from '../../src/client/client.ts'
import { segment } from '../../src/client/request-path.ts'
import { JOB, SCHEDULE } from '../../src/client/response-check.ts'
import { type Action, action, JSON_OPTION } from '../command.ts'
import { confirm, YES_OPTION } from '../confirm.ts'
import { exactJson, responseText } from '../exact-json.ts'
import { EXIT } from '../exit.ts'
import {
  type Column,
  fromNow,
  printError,
  printJson,
  printJsonText,
  printLine,
  record,
  table,
} from '../output.ts'
import { collected, connect, connectRaw } from '../server.ts'

const COLUMNS: Column<ScheduleSummary>[] = [
  { title: 'name', value: ({ name }) => name },
  { title: 'when', value: whenText },
  { title: 'endpoint', value: ({ endpoint }) => endpoint },
  {
    title: 'next',
    value: ({ paused, nextRunAt }) => (paused ? 'paused' : fromNow(nextRunAt)),
    style: ({ paused }) => (paused ? 'yellow' : null),
  },
  { title: 'last error', value: ({ lastError }) => lastError },
]

function whenText({ cron, every, timezone }: ScheduleSummary): string {
  return cron === null ? `every ${every}` : `${cron} ${timezone}`
}

const list = action({
  summary: 'All schedules, with their next tick',
  arguments: [],
  options: { json: JSON_OPTION },
  examples: ['posthorn schedules list'],
  async run({ values }) {
    const items = await collected(connect().schedules.list())
    if (values.json === true) printJson({ items, nextCursor: null })
    else if (items.length === 0)
      printError('There are no schedules yet. Create some: posthorn apply FILE')
    else printLine(table(items, COLUMNS))
    return EXIT.done
  },
})

const get = action({
  summary: 'One schedule with its next five ticks',
  arguments: ['NAME'],
  options: { json: JSON_OPTION },
  examples: ['posthorn schedules get nightly-report'],
  async run({ words: [name = ''], values }) {
    const text = await scheduleText('GET', name)
    if (values.json === true) printJsonText(text)
    else printSchedule(exactJson(text) as Schedule)
    return EXIT.done
  },
})

function pathOf(name: string, verb = ''): string {
  return `/schedules/${segment(name)}${verb}`
}

/** The exact text of the response, because it contains the payload. */
function scheduleText(method: 'GET' | 'POST', name: string, verb = ''): Promise<string> {
  const request = { method, path: pathOf(name, verb), repeatable: true }
  return responseText(connectRaw(), request, SCHEDULE)
}

function printSchedule(schedule: Schedule): void {
  printLine(
    record([
      ['schedule', schedule.name],
      ['when', whenText(schedule)],
      ['endpoint', schedule.endpoint],
      ['state', schedule.paused ? 'paused' : 'active'],
      ['overlap', schedule.overlap],
      ['misfire', schedule.misfire],
      ['starts', schedule.startAt],
      ['ends', schedule.endAt],
      ['payload', JSON.stringify(schedule.payload)],
      ['last job', schedule.lastJobId],
      ['last error', schedule.lastError],
      ['next ticks', schedule.nextRuns.length === 0 ? 'none' : schedule.nextRuns.join('  ')],
    ]),
  )
}

function change(verb: 'pause' | 'resume', summary: string): Action {
  return action({
    summary,
    arguments: ['NAME'],
    options: { json: JSON_OPTION },
    examples: [`posthorn schedules ${verb} nightly-report`],
    async run({ words: [name = ''], values }) {
      const text = await scheduleText('POST', name, `/${verb}`)
      const schedule = JSON.parse(text) as Schedule
      if (values.json === true) printJsonText(text)
      else if (schedule.paused) printLine(`${name} is paused`)
      else printLine(`${name} is resumed; next tick ${fromNow(schedule.nextRunAt) ?? 'never'}`)
      return EXIT.done
    },
  })
}

const run = action({
  summary: 'Enqueue a job of the schedule now, and print its id; its ticks do not change',
  arguments: ['NAME'],
  options: { json: JSON_OPTION },
  examples: ['posthorn schedules run nightly-report'],
  async run({ words: [name = ''], values }) {
    // The request is not repeated, because each one enqueues a job.
    const path = pathOf(name, '/run')
    const request = { method: 'POST', path, repeatable: false } as const
    const text = await responseText(connectRaw(), request, JOB)
    if (values.json === true) printJsonText(text)
    else printLine((JSON.parse(text) as Job).id)
    return EXIT.done
  },
})

const remove = action({
  summary: 'Delete a schedule; jobs that it has enqueued are kept',
  arguments: ['NAME'],
  options: { yes: YES_OPTION },
  examples: ['posthorn schedules delete nightly-report --yes'],
  async run({ words: [name = ''], values }) {
    const posthorn = connect()
    await confirm(`Delete the schedule ${name}`, values.yes)
    await posthorn.schedules.remove(name)
    printLine(`${name} is deleted`)
    return EXIT.done
  },
})

export const command = {
  verbs: {
    list,
    get,
    pause: change('pause', 'Enqueue no jobs until the schedule is resumed'),
    resume: change('resume', 'Continue with the next tick'),
    run,
    delete: remove,
  },
}
