// posthorn wait: waits until a job is final; the exit code says how it ended.
import { action, JSON_OPTION } from '../command.ts'
import { endText, exitCodeOf, jobText } from '../job-view.ts'
import { printJsonText, printLine } from '../output.ts'
import { connect, connectRaw } from '../server.ts'
import { WAIT_OPTIONS, waitOptions } from '../waiting.ts'

export const command = action({
  summary: 'Wait until a job is final; the exit code says how it ended',
  arguments: ['ID'],
  options: { ...WAIT_OPTIONS, json: JSON_OPTION },
  details: 'Exits with 0 if it succeeded, 1 if dead, 5 if cancelled, 4 if it is not final in time.',
  examples: ['posthorn wait "$id" --timeout 5m'],
  async run({ words: [id = ''], values }) {
    const job = await connect().wait(id, waitOptions(values.timeout))
    if (values.json === true) printJsonText(await jobText(connectRaw(), id))
    else printLine(endText(job))
    return exitCodeOf(job.state)
  },
})
