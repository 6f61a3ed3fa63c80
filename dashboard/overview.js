// The first page: what is wrong, and how every endpoint and worker is.
import { html } from 'htm/preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { addressOf } from './address.js'
import { ask, now } from './api.js'
import { FIGURES_EVERY_MS, readFigures, Sparkline, sumOf, within } from './figures.js'
import { useLive } from './live.js'
import { Empty, Foreign, State, Waiting, When } from './parts.js'
import { explainStuck, isStuck, lateMs, problemsIn } from './problems.js'
import { counted, figure, span, withInstants } from './words.js'

/** The API itself looks no more often. */
const EVERY_MS = 5_000
const ROWS_SHOWN = 50
/** So that the table below stays in sight. */
const PROBLEMS_SHOWN = 5

export function Overview() {
  const stats = useLive((_, signal) => ask('GET', 'stats', undefined, { signal }), EVERY_MS, [])
  const workers = useLive((_, signal) => ask('GET', 'workers', undefined, { signal }), EVERY_MS, [])
  const [lastHour, setLastHour] = useState(/** @type {Map<string, any>} */ (new Map()))
  const stuck = (stats.data?.endpoints ?? []).filter(isStuck)
  const names = stuck.map(({ name }) => name)
  const whys = useLive((_, signal) => explainStuck(stuck, signal), FIGURES_EVERY_MS, [names])
  if (stats.data === null) {
    return html`<h1>Overview</h1><${Waiting} error=${stats.error} what="The overview" />`
  }

  const known = workers.data?.items ?? []
  const problems = problemsIn(stats.data, known, lastHour, whys.data ?? new Map())
  const add = (name, figures) => setLastHour((before) => new Map(before).set(name, sumOf(figures)))
  return html`
    <h1>Overview</h1>
    <${Problems} problems=${problems} />
    <${Endpoints} endpoints=${stats.data.endpoints} isCut=${stats.data.more === true} add=${add} />
    <${Deleted} endpoints=${stats.data.deletedEndpoints ?? []} />
    <${Workers} workers=${known} />
    <p class="faint as-of">As of <${When} at=${stats.data.asOf} />.</p>
  `
}

function Problems({ problems }) {
  // Only what is new is read out, not each figure that changes.
  const news = problems.map(({ endpoint }) => `${endpoint ?? 'worker'}: trouble`).join(', ')
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

function Endpoints({ endpoints, isCut, add }) {
  const [wanted, setWanted] = useState('')
  const [shownCount, setShownCount] = useState(ROWS_SHOWN)
  if (endpoints.length === 0) return html`<${NoEndpoints} />`
  const found = endpoints.filter(({ name }) => name.includes(wanted.trim().toLowerCase()))
  const rows = found.toSorted((a, b) => rankOf(b) - rankOf(a) || (a.name < b.name ? -1 : 1))
  return html`<section aria-labelledby="endpoints">
    <div class="head">
      <h2 id="endpoints">${counted(endpoints.length, 'endpoint')}${isCut && ', the first by name; there are more'}</h2>
      <input
        type="search"
        aria-label="Endpoints whose name holds"
        placeholder="Name holds …"
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
          <th scope="col" class="num" title="half of the attempts took no longer">p50</th>
          <th scope="col" class="num" title="95 % of the attempts took no longer">p95</th>
        </tr>
      </thead>
      <tbody>
        ${rows
          .slice(0, shownCount)
          .map((row) => html`<${EndpointRow} key=${row.name} row=${row} add=${add} />`)}
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

/** Endpoints that are gone, and whose dead jobs are not. */
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

/** Those that need somebody come first. */
function rankOf(row) {
  return isStuck(row) ? 1 + lateMs(row) : row.state === 'disabled' ? 1 : 0
}

function EndpointRow({ row, add }) {
  const { name, state, queued, due, running, dead, more } = row
  const [element, seen] = useSeen()
  return html`<tr ref=${element}>
    <th scope="row"><a href=${addressOf(['endpoints', name])}>${name}</a></th>
    <td data-label="State"><${State} state=${state} /></td>
    ${count('Queued', queued, more, { endpoint: name, state: 'queued' })}
    ${count('Due', due, more, null)}
    ${count('Running', running, more, { endpoint: name, state: 'running' })}
    ${count('Dead', dead, more, { endpoint: name, state: 'dead' })}
    <td class="num ${isStuck(row) ? 'late' : ''}" data-label="Oldest due">
      ${row.oldestDueAge === null ? html`<span class="faint">–</span>` : span(lateMs(row))}
    </td>
    <${LastHour} name=${name} seen=${seen} add=${add} />
  </tr>`
}

function count(label, value, more, filter) {
  const text = figure(value, more)
  const shown =
    filter !== null && value > 0 ? html`<a href=${addressOf(['jobs'], filter)}>${text}</a>` : text
  return html`<td class="num ${value === 0 ? 'faint' : ''}" data-label=${label}>${shown}</td>`
}

/** Looks while its row is on the screen. */
function LastHour({ name, seen, add }) {
  const { data, refresh } = useLive(
    async (before, signal) => (seen.current ? readFigures(name, signal) : before),
    FIGURES_EVERY_MS,
    [name],
  )
  seen.onShown = refresh
  useEffect(() => {
    if (data !== null) add(name, data)
  }, [data])
  if (data === null) return html`<td colspan="3" class="faint wide">…</td>`
  const { succeeded, failed } = sumOf(data)
  return html`
    <td data-label="Last hour" class="hour wide">
      <div class="hour-row">
        <${Sparkline} figures=${data} />
        <span class="sums">
          <span>${figure(succeeded)} ok</span>
          <span class=${failed > 0 ? 'bad' : 'faint'}>${figure(failed)} failed</span>
        </span>
      </div>
    </td>
    <td class="num" data-label="p50">${within(data, 0.5)}</td>
    <td class="num" data-label="p95">${within(data, 0.95)}</td>
  `
}

/** Whether an element is on the screen, without drawing anew when that changes. */
function useSeen() {
  const element = useRef(/** @type {HTMLElement | null} */ (null))
  const seen = useRef({ current: false, onShown: () => {} })
  useEffect(() => {
    const observer = new IntersectionObserver((entries) => {
      const isSeen = entries.at(-1)?.isIntersecting ?? false
      const isNew = isSeen && !seen.current.current
      seen.current.current = isSeen
      if (isNew) seen.current.onShown()
    })
    if (element.current !== null) observer.observe(element.current)
    return () => observer.disconnect()
  }, [])
  return /** @type {const} */ ([element, seen.current])
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

function Workers({ workers }) {
  if (workers.length === 0) return null
  return html`<section aria-labelledby="workers">
    <h2 id="workers">Workers of the last hour</h2>
    <table class="rows">
      <thead>
        <tr>
          <th scope="col">Worker</th>
          <th scope="col">State</th>
          <th scope="col">Last sign of life</th>
          <th scope="col" class="num">In flight</th>
          <th scope="col">Started</th>
          <th scope="col">Version</th>
        </tr>
      </thead>
      <tbody>
        ${workers.map(
          (worker) => html`<tr key=${worker.id}>
            <th scope="row"><${Foreign} text=${worker.id} /></th>
            <td data-label="State"><${State} state=${worker.isLive ? 'live' : 'gone'} /></td>
            <td data-label="Last sign of life"><${When} at=${worker.seenAt} /></td>
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
