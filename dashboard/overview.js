// The first page: the problems, and the state of every endpoint and worker.
import { html } from 'htm/preact'
import { useState } from 'preact/hooks'
import { addressOf } from './address.js'
import { ask, now, queryOf } from './api.js'
import { BOUNDS_NOTE, LAST_HOUR, Sparkline, STATS_EVERY_MS, sumOf, within } from './last-hour.js'
import { useLive } from './live.js'
import { Empty, Foreign, State, Waiting, When } from './parts.js'
import { explainStuck, isStuck, lateMs, problemsIn, shownState } from './problems.js'
import { counted, figure, span, withInstants } from './words.js'

/** The API itself does not count more often. */
const EVERY_MS = 5_000
/** The page waits at most this long for the reasons why endpoints are stuck. */
const EXPLAINED_WITHIN_MS = 2_000
/** The counts of an endpoint that was created after they were read. */
const UNREAD = { ended: undefined, durationBounds: [] }
const ROWS_SHOWN = 50
/** More would push the table below out of sight. */
const PROBLEMS_SHOWN = 5

/**
 * Reads everything that the page shows at once, so that nothing appears late and moves the rest.
 * The counts of the last hour and the reasons are kept for a while.
 *
 * @param {any} before @param {AbortSignal} signal
 */
async function readOverview(before, signal) {
  const isFresh = before !== null && performance.now() - before.readAtMs < STATS_EVERY_MS
  const query = queryOf(isFresh ? {} : LAST_HOUR)
  const [stats, { items }] = await Promise.all([
    ask('GET', `stats${query}`, undefined, { signal }),
    ask('GET', 'workers', undefined, { signal }),
  ])
  const stuck = stats.endpoints.filter(isStuck)
  const names = stuck.map(({ name }) => name).join(' ')
  const isExplained = isFresh && before.names === names
  const whys = isExplained ? before.whys : await explainedInTime(stuck, before?.whys, signal)
  const shown = { stats, workers: items, names, whys }
  if (isFresh) return { ...shown, lastHour: before.lastHour, readAtMs: before.readAtMs }
  const { durationBounds } = stats
  const counts = stats.endpoints.map(({ name, ended }) => [name, { ended, durationBounds }])
  return { ...shown, lastHour: new Map(counts), readAtMs: performance.now() }
}

/**
 * Returns the reasons. If they take too long, returns the earlier ones, so that the page is not
 * delayed.
 */
async function explainedInTime(stuck, before = new Map(), signal) {
  const late = new Promise((resolve) => setTimeout(resolve, EXPLAINED_WITHIN_MS, before))
  return Promise.race([explainStuck(stuck, signal).catch(() => before), late])
}

export function Overview() {
  const { data, error } = useLive(readOverview, EVERY_MS, [])
  if (data === null) {
    return html`<h1>Overview</h1><${Waiting} error=${error} what="The overview" />`
  }
  const { stats, workers, lastHour, whys } = data
  const sums = new Map([...lastHour].map(([name, counts]) => [name, sumOf(counts)]))
  return html`
    <h1>Overview</h1>
    <${Problems} problems=${problemsIn(stats, workers, sums, whys)} />
    <${Endpoints} endpoints=${stats.endpoints} isCut=${stats.more === true} lastHour=${lastHour} />
    <${Deleted} endpoints=${stats.deletedEndpoints ?? []} />
    <${Workers} workers=${workers} />
    <p class="faint as-of">As of <${When} at=${stats.asOf} />.</p>
  `
}

function Problems({ problems }) {
  // Screen readers announce only new problems, not each figure that changes.
  const news = problems.map(({ endpoint }) => `${endpoint ?? 'worker'}: problem`).join(', ')
  return html`<section class="problems" aria-label="What is wrong">
    <span class="hidden" role="status">${news}</span>
    ${problems.slice(0, PROBLEMS_SHOWN).map(problemLine)}
    ${
      problems.length > PROBLEMS_SHOWN &&
      html`<details>
        <summary>${figure(problems.length - PROBLEMS_SHOWN)} more</summary>
        ${problems.slice(PROBLEMS_SHOWN).map(problemLine)}
      </details>`
    }
  </section>`
}

/** @param {import('./problems.js').Problem} problem */
function problemLine({ key, endpoint, text, why }) {
  return html`<p key=${key}>
    ${endpoint !== null && html`<a href=${addressOf(['endpoints', endpoint])}>${endpoint}</a>: `}
    <strong>${text}</strong>
    <span class="why">${withInstants(why, now())}</span>
  </p>`
}

function Endpoints({ endpoints, isCut, lastHour }) {
  const [wanted, setWanted] = useState('')
  const [shownCount, setShownCount] = useState(ROWS_SHOWN)
  if (endpoints.length === 0) return html`<${NoEndpoints} />`
  const found = endpoints.filter(({ name }) => name.includes(wanted.trim().toLowerCase()))
  const ranks = new Map(found.map((row) => [row.name, rankOf(row, lastHour)]))
  const rows = found.toSorted(
    (a, b) => ranks.get(b.name) - ranks.get(a.name) || (a.name < b.name ? -1 : 1),
  )
  return html`<section aria-labelledby="endpoints">
    <div class="head">
      <h2 id="endpoints">${counted(endpoints.length, 'endpoint')}${isCut && ', the first by name; there are more'}</h2>
      <input
        type="search"
        aria-label="Filter endpoints"
        placeholder="Filter endpoints"
        value=${wanted}
        onInput=${(event) => setWanted(event.target.value)}
      />
    </div>
    <table class="rows endpoints">
      <thead>
        <tr>
          <th scope="col">Endpoint</th>
          <th scope="col">State</th>
          <th scope="col" class="num">Queued</th>
          <th scope="col" class="num">Due</th>
          <th scope="col" class="num">Running</th>
          <th scope="col" class="num">Dead</th>
          <th scope="col" class="num">Oldest due</th>
          <th scope="col">Last hour</th>
          <th scope="col" class="num" title=${`half of the attempts took no longer; ${BOUNDS_NOTE}`}>p50</th>
          <th scope="col" class="num" title=${`95 % of the attempts took no longer; ${BOUNDS_NOTE}`}>p95</th>
        </tr>
      </thead>
      <tbody>
        ${rows
          .slice(0, shownCount)
          .map(
            (row) =>
              html`<${EndpointRow} key=${row.name} row=${row} counts=${lastHour.get(row.name) ?? UNREAD} />`,
          )}
      </tbody>
    </table>
    ${
      rows.length > shownCount &&
      html`<p>
      <button type="button" onClick=${() => setShownCount(shownCount + ROWS_SHOWN)}>
        Show more (${figure(rows.length - shownCount)} are not shown)
      </button>
    </p>`
    }
  </section>`
}

/** Deleted endpoints that still have dead jobs. */
function Deleted({ endpoints }) {
  if (endpoints.length === 0) return null
  const links = endpoints.slice(0, ROWS_SHOWN).map(({ name, dead }) => {
    const address = addressOf(['jobs'], { endpoint: name, state: 'dead' })
    return html`<li key=${name}><a href=${address}>${name}: ${figure(dead)} dead</a></li>`
  })
  return html`<section aria-labelledby="deleted">
    <h2 id="deleted">Deleted endpoints with dead jobs</h2>
    <ul>${links}</ul>
  </section>`
}

/** Endpoints that need attention come first. */
function rankOf(row, lastHour) {
  if (isStuck(row)) return 1 + lateMs(row)
  const { state } = shownState(row.state, sumOf(lastHour.get(row.name) ?? UNREAD))
  return state === 'disabled' || state === 'failing' ? 1 : 0
}

function EndpointRow({ row, counts }) {
  const { name, state, queued, due, running, dead, more } = row
  const { succeeded, failed } = sumOf(counts)
  return html`<tr>
    <th scope="row"><a href=${addressOf(['endpoints', name])}>${name}</a></th>
    <td data-label="State"><${State} ...${shownState(state, { succeeded, failed })} /></td>
    ${count('Queued', queued, more, { endpoint: name, state: 'queued' })}
    ${count('Due', due, more, null)}
    ${count('Running', running, more, { endpoint: name, state: 'running' })}
    ${count('Dead', dead, more, { endpoint: name, state: 'dead' })}
    <td class="num ${isStuck(row) ? 'late' : ''}" data-label="Oldest due">
      ${row.oldestDueAge === null ? html`<span class="faint">–</span>` : span(lateMs(row))}
    </td>
    <td data-label="Last hour" class="hour wide">
      <div class="hour-row">
        <${Sparkline} counts=${counts} />
        <span class="sums">
          <span>${figure(succeeded)} ok</span>
          <span class=${failed > 0 ? 'bad' : 'faint'}>${figure(failed)} failed</span>
        </span>
      </div>
    </td>
    <td class="num" data-label="p50">${within(counts, 0.5)}</td>
    <td class="num" data-label="p95">${within(counts, 0.95)}</td>
  </tr>`
}

function count(label, value, more, filter) {
  const text = figure(value, more)
  const shown =
    filter !== null && value > 0 ? html`<a href=${addressOf(['jobs'], filter)}>${text}</a>` : text
  return html`<td class="num ${value === 0 ? 'faint' : ''}" data-label=${label}>${shown}</td>`
}

function NoEndpoints() {
  const url = new URL('endpoints/invoice-pdf', document.baseURI)
  const line = `curl -X PUT ${url} -H 'content-type: application/json' -d '{"url":"http://localhost:3000/"}'`
  return html`<${Empty} title="No endpoint yet">
    <p>An endpoint is the receiver of jobs. Register the first one:</p>
    <${Foreign} long text=${line} label="Command" />
    <p>With API keys, add <code>-H "authorization: Bearer …"</code>. <a href="docs">The API</a> has all fields.</p>
  <//>`
}

function workerState({ isLive, hasEncryptionKey }) {
  if (!isLive) return { state: 'gone' }
  return hasEncryptionKey
    ? { state: 'live' }
    : { state: 'failing', text: 'live, lacks the encryption key' }
}

function Workers({ workers }) {
  if (workers.length === 0) return null
  return html`<section aria-labelledby="workers">
    <h2 id="workers">Workers of the last hour</h2>
    <table class="rows">
      <thead>
        <tr>
          <th scope="col">Worker</th>
          <th scope="col">State</th>
          <th scope="col">Last heartbeat</th>
          <th scope="col" class="num">In flight</th>
          <th scope="col">Started</th>
          <th scope="col">Version</th>
        </tr>
      </thead>
      <tbody>
        ${workers.map(
          (worker) => html`<tr key=${worker.id}>
            <th scope="row"><${Foreign} text=${worker.id} /></th>
            <td data-label="State"><${State} ...${workerState(worker)} /></td>
            <td data-label="Last heartbeat"><${When} at=${worker.seenAt} /></td>
            <td data-label="In flight" class="num">
              ${worker.isLive && html`${figure(worker.inFlight)} of ${figure(worker.concurrency)}`}
            </td>
            <td data-label="Started"><${When} at=${worker.startedAt} /></td>
            <td data-label="Version"><${Foreign} text=${worker.version} /></td>
          </tr>`,
        )}
      </tbody>
    </table>
  </section>`
}
