// posthorn listen: delivers the jobs of a pulled endpoint to a handler that the server cannot
// reach.
import { type Posthorn, PosthornError } from '../../src/client/client.ts'
import { readVariable } from '../../src/config.ts'
import { DEFAULT_TIMEOUT_MS, newSecret, secretKey } from '../../src/endpoint/endpoint.ts'
import { parseDuration } from '../../src/job/duration.ts'
import { createAddressPolicy, portOf } from '../../src/webhook/address-policy.ts'
import { type AttemptEnd, createSender } from '../../src/webhook/send.ts'
import { action } from '../command.ts'
import { CommandFailed, EXIT, UsageError } from '../exit.ts'
import { wholeNumber } from '../input.ts'
import { attemptsText } from '../job-view.ts'
import type { PulledJob } from '../listen/claim-call.ts'
import { pullJobs } from '../listen/pull-loop.ts'
import { isFinalAtStart, retryWhileAway } from '../listen/retry-while-away.ts'
import { painted, printError, printLine } from '../output.ts'
import { connect, connectRaw } from '../server.ts'
import { cleaned } from '../terminal-text.ts'

const LEASE_MS = 30_000
const MAX_CONCURRENCY = 1_000

export const command = action({
  summary: 'Deliver the jobs of an endpoint to a handler on this machine, signed',
  arguments: ['NAME', 'URL'],
  options: {
    secret: {
      type: 'string',
      value: 'whsec_…',
      help: 'signs the requests; default POSTHORN_SECRET, else a new one',
    },
    concurrency: { type: 'string', value: 'N', help: 'jobs at the same time; default 1' },
    create: { type: 'boolean', help: 'create the endpoint if it does not exist' },
  },
  details: `The endpoint must have no URL: its jobs are pulled from the server, so the handler can
be behind a firewall. The response of the handler decides how the job ends. After
Ctrl-C, attempts in progress have 5 s to end.`,
  examples: ['posthorn listen thumbnails http://localhost:3000/hook --create'],
  async run({ words: [name = '', url = ''], values }) {
    const concurrency = wholeNumber('--concurrency', values.concurrency ?? '1', 1, MAX_CONCURRENCY)
    const sender = createSender({
      connections: concurrency,
      policy: onlyTo(url),
      extraCaCerts: null,
    })
    const posthorn = connect()
    const stopping = stopSignal()
    const given = givenSecret(values.secret ?? readVariable('POSTHORN_SECRET', process.env))
    const secret = given ?? newSecret()
    try {
      const prepare = () => readTimeout(posthorn, name, values.create === true)
      const timeoutMs = await retryWhileAway(prepare, printError, stopping, isFinalAtStart)
      if (timeoutMs === null) return EXIT.done
      const call = connectRaw()
      const attempt = { posthorn, call, sender, endpoint: name, url, secret, timeoutMs }
      const onReady = () => {
        if (given === null)
          printError(`Signing with ${secret}, created for this run: configure it in your handler.`)
        printError(`Jobs of ${name} go to ${url}. Ctrl-C ends this.`)
      }
      const lines = { onReady, onEnd: printAttempt, print: printError }
      await pullJobs({ ...attempt, ...lines, leaseMs: LEASE_MS, concurrency }, stopping)
    } catch (error) {
      throw explained(name, error)
    } finally {
      await sender.close()
    }
    return EXIT.done
  },
})

/** The user chose the address of the handler, so it is allowed. No other address is dialled. */
function onlyTo(text: string) {
  const url = URL.parse(text)
  if (url === null || !/^https?:$/.test(url.protocol) || url.username + url.password !== '') {
    throw new UsageError(
      `"${text}" is not the URL of a handler; expected one like http://localhost:3000/`,
    )
  }
  const target = `${url.hostname}:${portOf(url)}`
  const policy = createAddressPolicy({ allowedTargets: [target], allowLoopback: true })
  return () => policy
}

/** null: none was given. @throws UsageError */
function givenSecret(text: string | null): string | null {
  if (text === null || text === '') return null
  if (secretKey(text) !== null) return text
  throw new UsageError('The secret must be whsec_ followed by 24–64 bytes in base64.')
}

/** The first Ctrl-C aborts it. The second ends the process, and the leases expire. */
function stopSignal(): AbortSignal {
  const stopping = new AbortController()
  const onSignal = () => {
    if (stopping.signal.aborted) process.exit(EXIT.failed)
    stopping.abort()
  }
  process.on('SIGINT', onSignal)
  process.on('SIGTERM', onSignal)
  return stopping.signal
}

/** The timeout of the endpoint, or the default if the key may not read the endpoint. */
async function readTimeout(posthorn: Posthorn, name: string, create: boolean): Promise<number> {
  try {
    const { timeout } = await posthorn.endpoints.get(name)
    return parseDuration(timeout) ?? DEFAULT_TIMEOUT_MS
  } catch (error) {
    if (!(error instanceof PosthornError)) throw error
    // A key that can only claim is enough to listen.
    if (error.code === 'forbidden') return DEFAULT_TIMEOUT_MS
    if (error.code !== 'endpoint_not_found' || !create) throw error
    await posthorn.endpoints.put(name, { url: null })
    printError(`Created the endpoint ${name}.`)
    return DEFAULT_TIMEOUT_MS
  }
}

function printAttempt(job: PulledJob, end: AttemptEnd, reportProblem: string | null): void {
  const { outcome, statusCode, durationMs, message } = end
  const time = new Date().toTimeString().slice(0, 8)
  const style = outcome === 'succeeded' ? 'green' : 'red'
  const status = statusCode === null ? '' : ` ${statusCode}`
  const attempts = attemptsText(job)
  const why = outcome === 'succeeded' || statusCode !== null ? '' : `: ${cleaned(message)}`
  const problem = reportProblem === null ? '' : ` (${cleaned(reportProblem)})`
  const took = `${Math.round(durationMs)} ms`
  printLine(
    `${time} ${job.id} ${attempts} ${painted(outcome, style)}${status} ${took}${why}${problem}`,
  )
}

/** Adds what the user can do about an endpoint that gives no jobs. */
function explained(name: string, error: unknown): unknown {
  if (!(error instanceof PosthornError)) return error
  if (error.code === 'endpoint_not_found') {
    return new CommandFailed(`There is no endpoint "${name}". To create it, add --create.`)
  }
  if (error.code !== 'job_state_conflict') return error
  return new CommandFailed(
    `Endpoint "${name}" has a URL: its jobs are sent there. Use another name with --create, or make this one pulled: posthorn endpoints set ${name} --pull`,
  )
}
