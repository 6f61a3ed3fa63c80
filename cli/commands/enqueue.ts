// posthorn enqueue: stores a job and prints its id; with --wait also how it ended.
import type { NewJob } from '../../src/client/client.ts'
import { action } from '../command.ts'
import { EXIT, UsageError } from '../exit.ts'
import { readInput, wholeNumber } from '../input.ts'
import { endText, exitCodeOf, jobText } from '../job-view.ts'
import { printError, printJsonText, printLine } from '../output.ts'
import { connect, connectRaw } from '../server.ts'
import { WAIT_OPTIONS, waitOptions } from '../waiting.ts'

export const command = action({
  summary: 'Store a job, and print its id',
  arguments: ['ENDPOINT', '[PAYLOAD]'],
  options: {
    file: { type: 'string', value: 'FILE', help: 'a file with the payload' },
    delay: {
      type: 'string',
      value: 'DURATION',
      help: 'wait this long before the first attempt, like 15m',
    },
    'run-at': {
      type: 'string',
      value: 'INSTANT',
      help: 'no attempt before this instant, like 2030-01-31T09:00:00Z',
    },
    priority: {
      type: 'string',
      value: '0-9',
      help: 'higher first, within its endpoint; default 5',
    },
    'idempotency-key': {
      type: 'string',
      value: 'KEY',
      help: 'a repeat with the same key returns the same job',
    },
    'ordering-key': {
      type: 'string',
      value: 'KEY',
      help: 'jobs with the same key run one at a time, in order',
    },
    'fairness-key': {
      type: 'string',
      value: 'KEY',
      help: 'groups the jobs of one customer',
    },
    cost: { type: 'string', value: '1-1000', help: 'how much work the job is; default 1' },
    group: { type: 'string', value: 'ID', help: 'the group that the job joins' },
    tag: { type: 'string', value: 'TAG', multiple: true, help: 'can be given more than once' },
    needs: {
      type: 'string',
      value: 'NAME=JOB',
      multiple: true,
      help: 'deliver the result of another job as the input NAME; JOB/result/irn is a part of it',
    },
    wait: { type: 'boolean', help: 'wait until it is final; the exit code says how it ended' },
    ...WAIT_OPTIONS,
    json: { type: 'boolean', help: 'print the job as JSON' },
  },
  details: `PAYLOAD is JSON, and is delivered byte for byte; - reads it from the standard input. A
string needs its own quotes: '"hello"'.`,
  examples: [`posthorn enqueue invoice-pdf '{"invoice": 42}' --wait`],
  async run({ words: [endpoint = '', given], values }) {
    const job = {
      endpoint,
      rawPayload: await payloadFrom(given, values.file),
      delay: values.delay,
      runAt: values['run-at'],
      priority:
        values.priority === undefined
          ? undefined
          : wholeNumber('--priority', values.priority, 0, 9),
      idempotencyKey: sendableKey(values['idempotency-key']),
      orderingKey: values['ordering-key'],
      fairnessKey: values['fairness-key'],
      cost: values.cost === undefined ? undefined : wholeNumber('--cost', values.cost, 1, 1_000),
      group: values.group,
      tags: values.tag,
      needs: values.needs === undefined ? undefined : needsFrom(values.needs),
    } satisfies NewJob
    const waits = waitOptions(values.timeout)
    const posthorn = connect()
    const { id, deduplicated } = await posthorn.enqueue(job, { return: 'minimal' })
    if (deduplicated) printError('A job with this idempotency key existed already.')
    if (values.json !== true) printLine(id)
    const end = values.wait === true ? await posthorn.wait(id, waits) : null
    if (values.json === true) printJsonText(await jobText(connectRaw(), id))
    else if (end !== null) printError(endText(end))
    return end === null ? EXIT.done : exitCodeOf(end.state)
  },
})

/** Refuses what a header cannot carry. The server validates the rest. */
function sendableKey(key: string | undefined): string | undefined {
  if (key === undefined || /^[\x20-\x7e]*$/.test(key)) return key
  throw new UsageError(
    `--idempotency-key is ${JSON.stringify(key)}; expected 1–255 visible ASCII characters.`,
  )
}

async function payloadFrom(word: string | undefined, file: string | undefined): Promise<Buffer> {
  if ((word === undefined) === (file === undefined)) {
    throw new UsageError(
      'posthorn enqueue needs one payload: as an argument, as - or as --file FILE.',
    )
  }
  const given =
    file === undefined && word !== '-' ? Buffer.from(word ?? '') : await readInput(file ?? '-')
  const bytes = withoutMark(given)
  try {
    JSON.parse(new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes))
  } catch (error) {
    throw new UsageError(`The payload is not JSON: ${(error as Error).message}`)
  }
  return bytes
}

/** Some shells put a byte order mark before what they pipe. It is not part of the JSON. */
function withoutMark(bytes: Buffer): Buffer {
  return bytes.subarray(0, 3).equals(Buffer.from('\ufeff')) ? bytes.subarray(3) : bytes
}

/** The server checks names and jobs. */
function needsFrom(words: string[]): Record<string, string> {
  const needs = words.map((word) => {
    const at = word.indexOf('=')
    if (at > 0) return [word.slice(0, at), word.slice(at + 1)] as const
    throw new UsageError(`--needs is "${word}"; expected NAME=JOB, like irn=job_…/result/irn.`)
  })
  const names = needs.map(([name]) => name)
  const twice = names.find((name, i) => names.indexOf(name) < i)
  if (twice !== undefined) throw new UsageError(`--needs names "${twice}" more than once.`)
  return Object.fromEntries(needs)
}
