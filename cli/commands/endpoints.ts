// posthorn endpoints: reads and configures the receivers of jobs, with a verb for each action.
import {
  type Endpoint,
  type FairnessKey,
  type ListedEndpoint,
  type PingResult,
  type Posthorn,
  PosthornError,
  type StoredFairnessKey,
} from '../../src/client/client.ts'
import { ENDPOINT_FIELDS, picked } from '../apply/canonical.ts'
import { printStep } from '../apply/difference.ts'
import { differences } from '../apply/plan.ts'
import { type Action, action, JSON_OPTION } from '../command.ts'
import { confirm, YES_OPTION } from '../confirm.ts'
import {
  changedKey,
  endpointChange,
  endpointSettings,
  KEY_OPTIONS,
  PUT_OPTIONS,
} from '../endpoint-settings.ts'
import { EXIT } from '../exit.ts'
import { countText, LIMIT_OPTION, listLimit, printPage } from '../list.ts'
import {
  type Column,
  painted,
  printError,
  printJson,
  printLine,
  record,
  styleOfState,
  table,
} from '../output.ts'
import { collected, connect, firstItems } from '../server.ts'
import { cleaned } from '../terminal-text.ts'

const COLUMNS: Column<ListedEndpoint>[] = [
  { title: 'name', value: ({ name }) => name },
  { title: 'state', value: ({ state }) => state, style: ({ state }) => styleOfState(state) },
  { title: 'queued', value: ({ counts }) => `${counts.queued}${counts.more ? '+' : ''}` },
  { title: 'running', value: ({ counts }) => counts.running },
  { title: 'timeout', value: ({ timeout }) => timeout },
  { title: 'attempts', value: ({ retry }) => retry.maxAttempts ?? null },
  { title: 'url', value: ({ url }) => url ?? '(pulled)' },
]

const list = action({
  summary: 'All endpoints, with their state and counts of jobs',
  arguments: [],
  options: { json: JSON_OPTION },
  examples: ['posthorn endpoints list'],
  async run({ values }) {
    const items = await collected(connect().endpoints.list())
    if (values.json === true) printJson({ items, nextCursor: null })
    else if (items.length === 0)
      printError('There are no endpoints yet. Create one: posthorn endpoints put NAME --url URL')
    else printLine(table(items, COLUMNS))
    return EXIT.done
  },
})

const get = action({
  summary: 'One endpoint with all its settings',
  arguments: ['NAME'],
  options: { json: JSON_OPTION },
  examples: ['posthorn endpoints get invoice-pdf'],
  async run({ words: [name = ''], values }) {
    printEndpoint(await connect().endpoints.get(name), values.json === true)
    return EXIT.done
  },
})

const KEY_COLUMNS: Column<FairnessKey>[] = [
  { title: 'key', value: ({ key }) => key },
  ...(['queued', 'due', 'running'] as const).map((title) => ({
    title,
    value: (row: FairnessKey) => countText(row[title], row.more),
  })),
  { title: 'settings', value: keySettingsText },
]

const keys = action({
  summary: 'The fairness keys that have queued or running jobs, by key',
  arguments: ['NAME'],
  options: {
    'by-wait': {
      type: 'boolean',
      help: 'only those with due jobs, the one that waits longest first',
    },
    limit: LIMIT_OPTION,
    json: JSON_OPTION,
  },
  examples: ['posthorn endpoints keys invoice-pdf --limit 100'],
  async run({ words: [name = ''], values }) {
    const limit = listLimit(values.limit)
    const { endpoints } = connect()
    const byWait = values['by-wait'] === true
    const order = byWait ? 'wait' : 'key'
    let partial: true | undefined
    const page = await firstItems(limit, async (part) => {
      const found = await endpoints.fairnessKeysPage(name, { ...part, order })
      partial = found.partial
      return found
    })
    const empty = `No fairness key has ${byWait ? 'due' : 'queued or running'} jobs.`
    const shown = partial === true ? { ...page, partial } : page
    printPage(shown, KEY_COLUMNS, { limit, empty, isJson: values.json === true })
    if (partial === true) printError('There are more than 10000 keys; not all were compared.')
    return EXIT.done
  },
})

const key = action({
  summary: 'Read or change the weight, the limits and the pause of one fairness key',
  arguments: ['NAME', 'KEY'],
  options: { ...KEY_OPTIONS, json: JSON_OPTION },
  details: `Without an option it only reads. Settings that are not given are kept. The value default
removes a limit of the key, so that the one of the endpoint holds; none means no limit.`,
  examples: [
    'posthorn endpoints key invoice-pdf customer-7',
    'posthorn endpoints key invoice-pdf customer-7 --weight 5 --concurrency none',
    'posthorn endpoints key invoice-pdf customer-7 --pause',
  ],
  async run({ words: [name = '', text = ''], values }) {
    const { endpoints } = connect()
    if (values.reset === true) await endpoints.resetFairnessKey(name, text)
    const stored = await endpoints.fairnessKey(name, text)
    const settings = changedKey(stored, values)
    // A change by another client in between is kept.
    const condition = stored.version === 0 ? { ifAbsent: true } : { ifVersion: stored.version }
    const shown =
      settings === null ? stored : await endpoints.putFairnessKey(name, text, settings, condition)
    if (values.json === true) printJson(shown)
    else printLine(record(keyRows(shown)))
    return EXIT.done
  },
})

const put = action({
  summary: 'Create or replace an endpoint; its jobs and secret are kept',
  arguments: ['NAME'],
  options: { ...PUT_OPTIONS, json: JSON_OPTION },
  details: `Settings that are not given get their defaults, also if the endpoint exists: to change
only some, use posthorn endpoints set. Prints the difference.`,
  examples: [
    'posthorn endpoints put invoice-pdf --url http://localhost:3000/ --timeout 30s --max-attempts 5',
  ],
  async run({ words: [name = ''], values }) {
    const settings = await endpointSettings(values)
    const posthorn = connect()
    const before = await storedEndpoint(posthorn, name)
    printWritten(before, await posthorn.endpoints.put(name, settings), values.json === true)
    return EXIT.done
  },
})

const set = action({
  summary: 'Change the given settings of an endpoint; the others are kept',
  arguments: ['NAME'],
  options: { ...PUT_OPTIONS, json: JSON_OPTION },
  details: `In FILE, null resets a setting to its default. Of retry and circuitBreaker only the
given parts change. Prints the difference.`,
  examples: ['posthorn endpoints set invoice-pdf --timeout 30s'],
  async run({ words: [name = ''], values }) {
    const change = await endpointChange(values)
    const posthorn = connect()
    const before = await posthorn.endpoints.get(name)
    printWritten(before, await posthorn.endpoints.edit(name, change), values.json === true)
    return EXIT.done
  },
})

function change(verb: 'pause' | 'resume', summary: string): Action {
  return action({
    summary,
    arguments: ['NAME'],
    options: { json: JSON_OPTION },
    examples: [`posthorn endpoints ${verb} invoice-pdf`],
    async run({ words: [name = ''], values }) {
      const endpoint = await connect().endpoints[verb](name)
      if (values.json === true) printJson(endpoint)
      else printLine(`${name} is ${painted(endpoint.state, styleOfState(endpoint.state))}`)
      return EXIT.done
    },
  })
}

const test = action({
  summary: 'Let the server send one signed ping, and print the response',
  arguments: ['NAME'],
  options: { json: JSON_OPTION },
  details: 'Exits with 1 unless the endpoint responds with 2xx.',
  examples: ['posthorn endpoints test invoice-pdf'],
  async run({ words: [name = ''], values }) {
    const ping = await connect().endpoints.test(name)
    if (values.json === true) printJson(ping)
    else printPing(ping)
    return ping.outcome === 'succeeded' ? EXIT.done : EXIT.failed
  },
})

const rotate = action({
  summary: 'Create a signing secret, and print it; for a while the old one signs too',
  arguments: ['NAME'],
  options: {
    overlap: {
      type: 'string',
      value: 'DURATION',
      help: 'how long the old one signs too; default 1d',
    },
    json: JSON_OPTION,
  },
  examples: ['posthorn endpoints rotate invoice-pdf --overlap 2d'],
  async run({ words: [name = ''], values }) {
    const endpoint = await connect().endpoints.rotateSecret(name, { overlap: values.overlap })
    if (values.json === true) printJson(endpoint)
    else printLine(endpoint.secret)
    return EXIT.done
  },
})

const remove = action({
  summary: 'Delete an endpoint; one in use needs --force',
  arguments: ['NAME'],
  options: {
    force: { type: 'boolean', help: 'its queued and running jobs become dead' },
    yes: YES_OPTION,
  },
  examples: ['posthorn endpoints delete invoice-pdf --force --yes'],
  async run({ words: [name = ''], values }) {
    const posthorn = connect()
    const consequence = values.force === true ? ', and make its queued and running jobs dead' : ''
    await confirm(`Delete the endpoint ${name}${consequence}`, values.yes)
    await posthorn.endpoints.remove(name, { force: values.force })
    printLine(values.force === true ? `${name} is being deleted` : `${name} is deleted`)
    return EXIT.done
  },
})

/** Returns null if the endpoint does not exist yet. */
async function storedEndpoint(posthorn: Posthorn, name: string): Promise<Endpoint | null> {
  try {
    return await posthorn.endpoints.get(name)
  } catch (error) {
    if (error instanceof PosthornError && error.code === 'endpoint_not_found') return null
    throw error
  }
}

function printWritten(before: Endpoint | null, after: Endpoint, isJson: boolean): void {
  if (!isJson) {
    const written = picked(after, [...ENDPOINT_FIELDS, 'secretHint'])
    const changes = differences(before === null ? null : { ...before }, written)
    printStep({ kind: 'endpoint', name: after.name, version: before?.version ?? null, changes })
  }
  printEndpoint(after, isJson)
}

function printEndpoint(endpoint: Endpoint, isJson: boolean): void {
  if (isJson) {
    printJson(endpoint)
    return
  }
  const { counts, rateLimit, perKey, limits, circuitBreaker, statuses, headers, onFinish } =
    endpoint
  printLine(
    record([
      ['endpoint', endpoint.name],
      ['state', endpoint.state],
      ['url', endpoint.url ?? '(none: its jobs are pulled)'],
      ['description', endpoint.description === '' ? null : endpoint.description],
      [
        'jobs',
        `${counts.queued} queued, ${counts.running} running${counts.more ? ', or more' : ''}`,
      ],
      ['timeout', endpoint.timeout],
      ['retry', JSON.stringify(endpoint.retry)],
      ['concurrency', endpoint.concurrency ?? 'no limit'],
      ['rate limit', rateLimitText(rateLimit)],
      ['concurrency of a key', perKey?.concurrency ?? null],
      ['rate limit of a key', perKey?.rateLimit ? rateLimitText(perKey.rateLimit) : null],
      ['limits', limits.length === 0 ? null : limits.join(', ')],
      ['breaker', circuitBreaker === null ? 'none' : JSON.stringify(circuitBreaker)],
      ['statuses', Object.keys(statuses).length === 0 ? null : JSON.stringify(statuses)],
      ['completion', endpoint.completion],
      ['headers', Object.keys(headers).length === 0 ? null : JSON.stringify(headers)],
      ['on finish', onFinish === null ? null : JSON.stringify(onFinish)],
      ['secret', endpoint.secret ?? `…${endpoint.secretHint}`],
    ]),
  )
  if (endpoint.secret !== undefined) printError('The secret is shown only once.')
}

function printPing({ outcome, statusCode, durationMs, message, responseBody }: PingResult): void {
  const style = outcome === 'succeeded' ? 'green' : 'red'
  const status = statusCode === null ? '' : ` ${statusCode}`
  printLine(`${painted(outcome, style)}${status} in ${durationMs} ms: ${cleaned(message ?? '')}`)
  if (responseBody !== null && responseBody !== '') printLine(cleaned(responseBody))
}

export const command = {
  verbs: {
    list,
    get,
    keys,
    key,
    put,
    set,
    pause: change('pause', 'Stop deliveries; jobs can still be enqueued'),
    resume: change(
      'resume',
      'Resume deliveries of an endpoint that is paused, resting or disabled',
    ),
    test,
    rotate,
    delete: remove,
  },
}

function rateLimitText(rateLimit: Endpoint['rateLimit']): string {
  return rateLimit === null ? 'none' : `${rateLimit.count} per ${rateLimit.per}`
}

/** Only what differs from a key without settings and limits. */
function keySettingsText(key: FairnessKey): string {
  const { weight, concurrency, rateLimit, paused, restingUntil } = key
  return [
    ...(paused ? ['paused'] : []),
    ...(restingUntil === null ? [] : [`resting until ${restingUntil}`]),
    ...(weight === 1 ? [] : [`weight ${weight}`]),
    ...(concurrency === null ? [] : [`concurrency ${concurrency}`]),
    ...(rateLimit === null ? [] : [rateLimitText(rateLimit)]),
  ].join(', ')
}

function keyRows(stored: StoredFairnessKey): [string, string | number | null][] {
  const { key: text, weight, concurrency, rateLimit, paused, restingUntil } = stored
  return [
    ['key', text],
    ['weight', weight],
    ['concurrency', concurrency === undefined ? 'default' : (concurrency ?? 'no limit')],
    ['rate limit', rateLimit === undefined ? 'default' : rateLimitText(rateLimit)],
    ['paused', paused ? 'yes' : 'no'],
    ['resting until', restingUntil],
  ]
}
