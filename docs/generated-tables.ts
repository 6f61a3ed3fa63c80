// The tables of the docs that the code knows better: `npm run docs` writes them between their
// marks.
import { readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { SETTINGS } from '../src/config.ts'
import { DEFAULT_TIMEOUT_MS } from '../src/endpoint/endpoint.ts'
import { ERRORS, type ErrorCode } from '../src/errors.ts'
import { GROUP_GUARDS, GROUP_LIFECYCLE, type GroupEvent } from '../src/job/groups.ts'
import { GUARDS, type Guard, LIFECYCLE, type LifecycleEvent } from '../src/job/lifecycle.ts'
import { DEFAULT_RETRY } from '../src/job/retry-policy.ts'
import { METRICS, type MetricRow } from '../src/stats/metric-table.ts'
import { VERSION } from '../src/version.ts'
import { DELIVERY_HEADERS, type SentWith } from '../src/webhook/delivery-headers.ts'
import { pingRequest, type WebhookRequest, webhookRequest } from '../src/webhook/request.ts'
import { objectsText, routesText } from './api-reference.ts'
import { table } from './markdown-table.ts'
import { defaultDelaysTable, failuresTable, outcomesTable } from './outcome-tables.ts'

const ROOT = join(import.meta.dirname, '..')

/** Which table stands in which page. */
const TABLES: Record<string, { page: string; print: () => string }> = {
  settings: { page: 'README.md', print: settingsTable },
  events: { page: 'docs/LIFECYCLE.md', print: eventsTable },
  guards: { page: 'docs/LIFECYCLE.md', print: guardsTable },
  'group events': { page: 'docs/LIFECYCLE.md', print: groupEventsTable },
  'group guards': { page: 'docs/LIFECYCLE.md', print: groupGuardsTable },
  routes: { page: 'docs/api.md', print: routesText },
  objects: { page: 'docs/api.md', print: objectsText },
  errors: { page: 'docs/ERRORS.md', print: errorsTable },
  outcomes: { page: 'docs/outcomes.md', print: outcomesTable },
  failures: { page: 'docs/outcomes.md', print: failuresTable },
  'default delays': { page: 'docs/retries.md', print: defaultDelaysTable },
  metrics: { page: 'docs/observability.md', print: metricsTable },
  'delivery headers': { page: 'docs/deliveries.md', print: deliveryHeadersTable },
  'delivery example': { page: 'docs/deliveries.md', print: deliveryExample },
  'ping example': { page: 'docs/deliveries.md', print: pingExample },
}

/** The page as it should be, and as it is. */
export function pages(): { page: string; found: string; expected: string }[] {
  return [...new Set(Object.values(TABLES).map(({ page }) => page))].map((page) => {
    const found = readFileSync(join(ROOT, page), 'utf8')
    const expected = Object.entries(TABLES)
      .filter(([, table]) => table.page === page)
      .reduce((text, [name, { print }]) => replaceBetweenMarks(text, name, print()), found)
    return { page, found, expected }
  })
}

function replaceBetweenMarks(text: string, name: string, table: string): string {
  const [begin, end] = [`<!-- ${name}: made by npm run docs -->`, `<!-- end of ${name} -->`]
  const [from, to] = [text.indexOf(begin), text.indexOf(end)]
  if (from < 0 || to < from) throw new Error(`the marks of the table ${name} are missing`)
  return `${text.slice(0, from + begin.length)}\n${table}${text.slice(to)}`
}

function settingsTable(): string {
  const rows = Object.entries(SETTINGS).map(([name, { default: fallback, range, meaning }]) => [
    `\`${name}\``,
    fallback === null ? '' : `\`${fallback}\``,
    range ?? '',
    meaning,
  ])
  return table(['variable', 'default', 'range', 'meaning'], rows)
}

function eventsTable(): string {
  const rows = Object.entries(LIFECYCLE as Record<string, LifecycleEvent>).map(([name, event]) => [
    name,
    event.from.join(', ') || '(none)',
    event.guards.join(', ') || '(none)',
    event.to ?? '(gone)',
    event.also,
    event.by.join(', '),
  ])
  return table(['event', 'from', 'guards', 'to', 'the same write also', 'by'], rows)
}

function groupEventsTable(): string {
  const rows = Object.entries(GROUP_LIFECYCLE as Record<string, GroupEvent>).map(
    ([name, event]) => [
      name,
      event.from.join(', ') || '(none)',
      event.guards.join(', '),
      event.to ?? '(gone)',
      event.also,
      event.by.join(', '),
    ],
  )
  return table(['event', 'from', 'guards', 'to', 'the same write also', 'by'], rows)
}

function groupGuardsTable(): string {
  return table(['guard', 'what the write proves'], Object.entries(GROUP_GUARDS))
}

function guardsTable(): string {
  return table(['guard', 'what the write proves'], Object.entries(GUARDS) as [Guard, string][])
}

/** When a client gets a code, and what it can do. */
const ERROR_ADVICE: Record<ErrorCode, string> = {
  invalid_json:
    'The body is not JSON or not UTF-8, is nested too deep, or has a duplicate key outside of the payload.',
  invalid_request: 'A field, query, header or path is wrong; `errors` says which.',
  unauthorized: 'No key or token was sent, or it is unknown.',
  forbidden:
    'The scope of the key does not allow the route. In local mode: the request could come from a web page.',
  not_found: 'No route has this path, or the API key does not exist.',
  job_not_found: 'The job never existed, was deleted, or was purged after its retention.',
  endpoint_not_found: 'Register the endpoint with `PUT /endpoints/:name`. 422 for an enqueue.',
  limit_not_found: 'Create the limit with `PUT /limits/:name`. 422 for an endpoint that names it.',
  group_not_found: 'The group never existed, was deleted, or was purged. 422 for an enqueue.',
  schedule_not_found: 'Create the schedule with `PUT /schedules/:name`.',
  method_not_allowed: 'The `Allow` header lists the methods of the path.',
  job_state_conflict:
    '`detail` names the present state. Also: a claim or test of the wrong kind of endpoint.',
  lease_lost: 'Another attempt has the job, or it is final. Discard the work.',
  endpoint_in_use:
    'Jobs or schedules use the endpoint (`?force=true` deletes it all the same), it is being deleted, or too many secrets are valid.',
  limit_in_use:
    'Remove the limit from the `limits` of the endpoint that the detail names, and repeat the request.',
  too_many_limits: 'There are 1,000 limits. `DELETE` those that no endpoint names.',
  too_many_endpoints:
    '200 endpoints name the limit. Remove it from the `limits` of others, or use a second limit.',
  too_many_keys:
    'A fairness key cannot have settings, because 10,000 others have. `DELETE` those of others.',
  group_closed: 'It was closed, or had no add for its `closeAfter`. Create another group.',
  group_full: 'A group has at most 1,000,000 jobs. Create another group.',
  group_open: 'A job can depend on a closed group only. Close it first, or use its `onFinish`.',
  group_state_conflict: '`detail` names the present state, and those that the request needs.',
  endpoint_disabled: 'It responded with 410. `POST /endpoints/:name/resume` enables it.',
  dedupe_conflict: 'A queued or running job has the key; `detail` names it.',
  precondition_failed: 'Read the record again and repeat the change.',
  payload_too_large: 'The body is larger than `MAX_BODY_BYTES`.',
  unsupported_media_type: 'Send `content-type: application/json`.',
  idempotency_key_reused: 'Use a new key for a new request.',
  internal_error: 'A bug: report it with the `requestId` and its line in the log.',
  store_unavailable: 'Repeat the request after `Retry-After`, with the same idempotency key.',
  overloaded: 'Repeat the request after `Retry-After`.',
}

function errorsTable(): string {
  const rows = Object.entries(ERRORS).map(([code, { status, title }]) => [
    `\`${code}\``,
    String(status),
    title,
    ERROR_ADVICE[code as ErrorCode],
  ])
  return table(['code', 'status', 'title', 'when, and what to do'], rows)
}

function metricsTable(): string {
  const rows = Object.entries(METRICS as Record<string, MetricRow>).map(([name, row]) => [
    `\`${name}\``,
    row.type,
    row.process,
    row.labels.map((label) => `\`${label}\``).join(', '),
    row.help,
  ])
  return table(['metric', 'type', 'process', 'labels', 'meaning'], rows)
}

const SENT_WITH: Record<SentWith, string> = {
  all: 'every request',
  jobs: 'jobs',
  schedules: 'jobs of a schedule',
  async: 'jobs of an endpoint with `"completion": "async"`',
  traces: 'jobs enqueued with a trace context, and all jobs if traces are exported',
  pings: 'test pings',
}

function deliveryHeadersTable(): string {
  const rows = Object.entries(DELIVERY_HEADERS).map(([name, { sentWith, meaning }]) => [
    `\`${name}\``,
    meaning,
    SENT_WITH[sentWith],
  ])
  return table(['header', 'value', 'sent with'], rows)
}

const EXAMPLE_ENDPOINT = {
  name: 'invoice-pdf',
  secrets: ['whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY='],
  headers: {},
  statuses: {},
}
const EXAMPLE_REQUEST = {
  endpoint: EXAMPLE_ENDPOINT,
  url: 'https://shop.example.com/hooks/invoice-pdf',
  now: Date.UTC(2026, 10, 24, 8, 30),
  timeoutMs: DEFAULT_TIMEOUT_MS,
  userAgent: `Posthorn/${VERSION}`,
}

function deliveryExample(): string {
  const { now } = EXAMPLE_REQUEST
  const job = {
    jobId: 'job_01m86pd23fhfphdmym4dppx63p',
    fence: 1,
    attemptNumber: 1,
    attemptsLeft: DEFAULT_RETRY.maxAttempts - 1,
    runAt: now - 100,
    payload: Buffer.from('{"invoice":42}'),
    inputs: null,
    scheduleName: null,
    hops: 0,
  }
  const parts = { ...EXAMPLE_REQUEST, job, headers: {}, completion: null, trace: null }
  return httpText(webhookRequest(parts))
}

function pingExample(): string {
  return httpText(pingRequest({ ...EXAMPLE_REQUEST, id: 'ping_3q2dXl7Yk0mJfW8A' }))
}

function httpText({ url, headers, body }: WebhookRequest): string {
  const { host, pathname } = new URL(url)
  const lines = [`POST ${pathname} HTTP/1.1`, `host: ${host}`]
  for (let i = 0; i < headers.length; i += 2) lines.push(`${headers[i]}: ${headers[i + 1]}`)
  lines.push(`content-length: ${body.byteLength}`, '', Buffer.from(body).toString())
  return `\`\`\`http\n${lines.join('\n')}\n\`\`\`\n`
}

if (import.meta.main) {
  for (const { page, expected } of pages()) writeFileSync(join(ROOT, page), expected)
}
