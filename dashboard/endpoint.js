// One endpoint: its state, its settings, its recent failures, and the commands for it.
import { html } from 'htm/preact'
import { useState } from 'preact/hooks'
import { addressOf } from './address.js'
import { ask, queryOf } from './api.js'
import { Attempt } from './attempts.js'
import { EndpointTabs } from './fair-keys.js'
import { readJob } from './job-reads.js'
import { JobTable } from './jobs.js'
import { readLastHour, Sparkline, STATS_EVERY_MS, sumOf, within } from './last-hour.js'
import { useLive } from './live.js'
import { Action, copy, Dialog, Foreign, facts, State, toneOf, Waiting, When } from './parts.js'
import { lateMs, shownState } from './problems.js'
import { figure, plain, span, utc } from './words.js'

const EVERY_MS = 3_000
const FAILURES_SHOWN = 10
/** The number of queued jobs among which the page looks for those that had an attempt. */
const QUEUED_LOOKED_AT = 50
const NO_ATTEMPTS = { succeeded: 0, failed: 0 }
/** A ping takes at most the timeout of the endpoint, which is at most 15 min. */
const PING_DEADLINE_MS = 16 * 60_000

/** @param {string} name */
const endpointPath = (name) => `endpoints/${encodeURIComponent(name)}`

/** @param {{name?: string}} props */
export function Endpoint({ name = '' }) {
  const read = useLive(
    (_, signal) => ask('GET', endpointPath(name), undefined, { signal }),
    EVERY_MS,
    [name],
  )
  const hour = useLive((_, signal) => readLastHour(name, signal), STATS_EVERY_MS, [name])
  if (read.data === null) {
    return html`<h1>${name}</h1><${Waiting} error=${read.error} what="The endpoint" />`
  }
  const endpoint = read.data
  const lastHour = hour.data === null ? NO_ATTEMPTS : sumOf(hour.data)
  return html`
    <div class="head">
      <h1><span class="faint">Endpoint</span> ${name}</h1>
      <${State} ...${shownState(endpoint.state, lastHour)} />
      ${endpoint.restingUntil !== null && html`<span>until ${utc(endpoint.restingUntil).slice(11)}, <${When} at=${endpoint.restingUntil} /></span>`}
      ${endpoint.disabledReason !== null && html`<span><${Foreign} text=${endpoint.disabledReason} /></span>`}
    </div>
    <${EndpointTabs} name=${name} at="endpoint" />
    ${endpoint.description !== '' && html`<p><${Foreign} text=${endpoint.description} /></p>`}
    <${Commands} endpoint=${endpoint} refresh=${read.refresh} />
    <${Load} endpoint=${endpoint} data=${hour.data} />
    <${Failures} name=${name} />
    <${Settings} endpoint=${endpoint} />
  `
}

function Commands({ endpoint, refresh }) {
  const { name, state, url } = endpoint
  const [ping, setPing] = useState(/** @type {any} */ (null))
  const [isRotating, setRotating] = useState(false)
  const post = (verb, said) => async () => {
    await ask('POST', `${endpointPath(name)}/${verb}`)
    return said
  }
  const test = async () => {
    setPing(null)
    setPing(
      await ask('POST', `${endpointPath(name)}/test`, undefined, { deadlineMs: PING_DEADLINE_MS }),
    )
  }
  const isStopped = state !== 'active'
  return html`<div class="actions" role="group" aria-label="This endpoint">
      ${isStopped && html`<${Action} label="Resume" tone="main" act=${post('resume', 'Deliveries continue.')} done=${refresh} />`}
      ${
        (state === 'active' || state === 'resting') &&
        html`<${Action} label="Pause" act=${post('pause', 'Deliveries stop; jobs can still be enqueued.')} done=${refresh} />`
      }
      <${Action} label="Send a test ping" act=${test} disabled=${url === null} title=${url === null ? 'it is pulled: nothing is sent to it' : undefined} />
      <button type="button" onClick=${() => setRotating(true)}>Rotate secret …</button>
      <a href=${addressOf(['jobs'], { endpoint: name })}>Its jobs</a>
      ${isRotating && html`<${RotateDialog} name=${name} refresh=${refresh} close=${() => setRotating(false)} />`}
    </div>
    <div aria-live="polite">${ping !== null && html`<${Ping} ping=${ping} />`}</div>`
}

function Ping({ ping }) {
  const { outcome, statusCode, errorCode, message, durationMs, responseBody } = ping
  return html`<div class="card">
    <p class="line">
      <strong>Test ping</strong>
      <${State} state=${outcome} />
      ${statusCode !== null && html`<code>${statusCode}</code>`}
      ${errorCode !== null && html`<code><${Foreign} text=${errorCode} /></code>`}
      <span>took ${span(durationMs)}</span>
    </p>
    ${message !== null && html`<p><${Foreign} text=${message} /></p>`}
    ${responseBody && html`<${Foreign} long text=${responseBody} label="Response to the ping" />`}
  </div>`
}

function RotateDialog({ name, refresh, close }) {
  const [overlap, setOverlap] = useState('24h')
  const [secret, setSecret] = useState(/** @type {string | null} */ (null))
  const rotate = async () => {
    const answer = await ask('POST', `${endpointPath(name)}/rotate-secret`, { overlap })
    setSecret(answer.secret)
  }
  if (secret !== null) {
    return html`<${Dialog} title="The new secret" close=${close}>
      <p>It is shown only here. Until the overlap ends, deliveries are signed with both.</p>
      <${Foreign} long text=${secret} label="Secret" />
      <div class="actions">
        <${Action} label="Copy secret" tone="main" act=${() => copy(secret, 'The secret')} />
        <button type="button" onClick=${close}>Close</button>
      </div>
    <//>`
  }
  return html`<${Dialog} title=${`Rotate the secret of ${name}?`} close=${close}>
    <label>
      How long the old secret also signs, like 30m or 24h
      <input value=${overlap} onInput=${(event) => setOverlap(event.target.value.trim())} />
    </label>
    <div class="actions">
      <${Action} label="Create a new secret" tone="danger" act=${rotate} done=${refresh} />
      <button type="button" onClick=${close}>Cancel</button>
    </div>
  <//>`
}

function Load({ endpoint, data }) {
  const { name, counts } = endpoint
  const stats = data?.row
  const linked = (state, value) =>
    html`<a href=${addressOf(['jobs'], { endpoint: name, state })}>${figure(value, counts.more)}</a>`
  return html`<section aria-label="Load" class="load card">
    ${facts([
      ['Queued', linked('queued', counts.queued)],
      ['Due', stats ? figure(stats.due, stats.more) : '…'],
      ['Running', linked('running', counts.running)],
      ['Dead', stats ? linked('dead', stats.dead) : '…'],
      ['Oldest due', stats?.oldestDueAge ? span(lateMs(stats)) : '–'],
      ['p50', data === null ? '…' : within(data, 0.5)],
      ['p95', data === null ? '…' : within(data, 0.95)],
    ])}
    ${
      data !== null &&
      html`<div class="hour">
      <${Sparkline} counts=${data} tall />
      <span class="sums">
        <span class="faint">Last hour</span>
        <span>${figure(sumOf(data).succeeded)} ok</span>
        <span class=${sumOf(data).failed > 0 ? 'bad' : 'faint'}>${figure(sumOf(data).failed)} failed</span>
      </span>
    </div>`
    }
  </section>`
}

function Failures({ name }) {
  const list = (state, limit) => (_, signal) =>
    ask('GET', `jobs${queryOf({ endpoint: name, state, limit })}`, undefined, { signal })
  const dead = useLive(list('dead', FAILURES_SHOWN), EVERY_MS, [name])
  const queued = useLive(list('queued', QUEUED_LOOKED_AT), EVERY_MS, [name])
  if (dead.data === null || queued.data === null) {
    return html`<${Waiting} error=${dead.error ?? queued.error} what="The failures" />`
  }
  const retrying = queued.data.items.filter(({ attemptCount }) => attemptCount > 0)
  const all = [...retrying.slice(0, FAILURES_SHOWN), ...dead.data.items]
  return html`<section aria-labelledby="failures">
    <h2 id="failures">Recent failures</h2>
    ${
      all.length === 0
        ? html`<p class="faint">No job is dead, and none of the newest ${QUEUED_LOOKED_AT} queued ones waits for a retry.</p>`
        : html`<${LastFailure} id=${all[0].id} /><${JobTable} jobs=${all} isOfOne />`
    }
    ${
      all.length > 0 &&
      queued.data.nextCursor !== null &&
      html`<p class="faint">Of the queued jobs the newest ${QUEUED_LOOKED_AT} were looked at.</p>`
    }
  </section>`
}

/** The last failed attempt of a job. */
function LastFailure({ id }) {
  const { data } = useLive((before, signal) => readJob(id, before, signal), EVERY_MS, [id])
  const failed = data?.job.attempts.findLast(({ outcome }) => toneOf(outcome) === 'bad')
  if (failed === undefined) return null
  return html`<ol class="attempts"><${Attempt} one=${failed} /></ol>`
}

function Settings({ endpoint }) {
  const { circuitBreaker: breaker, rateLimit, perKey, limits, retry, headers, onFinish } = endpoint
  const statuses = Object.entries(endpoint.statuses)
  const names = Object.keys(headers)
  return html`<section aria-labelledby="settings">
    <h2 id="settings">Settings</h2>
    ${facts([
      [
        'URL',
        endpoint.url === null
          ? 'none: its jobs are pulled'
          : html`<${Foreign} text=${endpoint.url} />`,
      ],
      ['Timeout', endpoint.timeout],
      ['Retry', retryText(retry)],
      ['Concurrency', endpoint.concurrency === null ? 'no limit' : figure(endpoint.concurrency)],
      ['Rate limit', rateLimitText(rateLimit)],
      ['Each fairness key', keyLimitsText(perKey)],
      ['Shared limits', limits.length === 0 ? 'none' : limits.join(', ')],
      [
        'Circuit breaker',
        breaker === null
          ? 'none'
          : `after ${figure(breaker.failures)} failures in a row it rests ${breaker.cooldown}`,
      ],
      [
        'Statuses',
        statuses.length === 0
          ? 'as usual'
          : statuses.map(([status, choice]) => `${status} ${choice}`).join(', '),
      ],
      [
        'Completion',
        endpoint.completion === 'async' ? `async, within ${endpoint.completionTimeout}` : 'sync',
      ],
      [
        'On finish',
        onFinish === null
          ? 'none'
          : html`<a href=${addressOf(['endpoints', onFinish.endpoint])}>${onFinish.endpoint}</a> gets a notice of ${onFinish.states.join(', ')}`,
      ],
      ['Secret', `ends in ${endpoint.secretHint}`],
      [
        'Headers',
        names.length === 0
          ? 'none'
          : html`<${Foreign} text=${names.map((one) => `${one}: ${headers[one]}`).join(', ')} />`,
      ],
      ['Changed', html`<${When} at=${endpoint.updatedAt} />, version ${endpoint.version}`],
      ['Registered', html`<${When} at=${endpoint.createdAt} />`],
    ])}
  </section>`
}

/** @param {any} retry */
function retryText({ maxAttempts, backoff, maxAge }) {
  const { type, delay, delays, factor, maxDelay } = backoff
  const waits =
    type === 'schedule'
      ? `waits ${delays.join(', ')}`
      : `${plain(type)} from ${delay}${type === 'exponential' ? ` × ${factor}` : ''}, at most ${maxDelay}`
  return `${maxAttempts} attempts, ${waits}${maxAge ? `, none after ${maxAge}` : ''}`
}

/** @param {any} rateLimit */
function rateLimitText(rateLimit) {
  return rateLimit === null ? 'none' : `${figure(rateLimit.count)} per ${rateLimit.per}`
}

/** @param {any} perKey */
function keyLimitsText(perKey) {
  if (perKey === null) return 'no limits'
  const { concurrency, rateLimit } = perKey
  const limit = concurrency === null ? 'no limit' : figure(concurrency)
  return `concurrency: ${limit}, rate limit: ${rateLimitText(rateLimit)}`
}
