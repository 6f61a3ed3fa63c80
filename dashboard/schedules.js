// Schedules: the next tick and the last job of each, and the commands for it.
import { html } from 'htm/preact'
import { addressOf } from './address.js'
import { ask, queryOf } from './api.js'
import { readJob } from './job-reads.js'
import { useLive } from './live.js'
import { Action, Empty, Foreign, facts, State, Waiting, When } from './parts.js'
import { READER_ZONE, utc, zoned } from './words.js'

const EVERY_MS = 5_000
/** The page sends a request for each schedule, and one for its last job. */
const PAGE = 20

/** @param {string} name */
const schedulePath = (name) => `schedules/${encodeURIComponent(name)}`

/** @param {{name?: string, query?: any}} props name: show only this schedule */
export function Schedules({ name, query }) {
  if (name !== undefined) {
    return html`<h1>Schedule</h1>
      <${Schedule} key=${name} name=${name} />
      <p><a href="#/schedules">All schedules</a></p>`
  }
  return html`<h1>Schedules</h1><${List} cursor=${query.get('cursor')} />`
}

function List({ cursor }) {
  const { data, error } = useLive(
    (_, signal) =>
      ask('GET', `schedules${queryOf({ limit: PAGE, cursor })}`, undefined, { signal }),
    EVERY_MS,
    [cursor],
  )
  if (data === null) return html`<${Waiting} error=${error} what="The list of schedules" />`
  if (data.items.length === 0 && cursor === null) return html`<${NoSchedules} />`
  return html`
    <div class="schedules">
      ${data.items.map(({ name }) => html`<${Schedule} key=${name} name=${name} />`)}
    </div>
    <nav class="pages" aria-label="Pages of schedules">
      ${cursor !== null && html`<a href="#/schedules">First</a>`}
      ${
        data.nextCursor !== null &&
        html`<a href=${addressOf(['schedules'], { cursor: data.nextCursor })}>Further</a>`
      }
    </nav>
  `
}

function NoSchedules() {
  const url = new URL('schedules/morning-report', document.baseURI)
  const body = '{"cron":"0 9 * * 1-5","timezone":"Europe/Berlin","endpoint":"reports","payload":{}}'
  return html`<${Empty} title="No schedule yet">
    <p>A schedule enqueues a job at each tick of a cron expression or an interval:</p>
    <${Foreign} long label="Command" text=${`curl -X PUT ${url} -H 'content-type: application/json' -d '${body}'`} />
  <//>`
}

function Schedule({ name }) {
  const { data, error, refresh } = useLive(
    (_, signal) => ask('GET', schedulePath(name), undefined, { signal }),
    EVERY_MS,
    [name],
  )
  if (data === null) return html`<${Waiting} error=${error} what=${`Schedule ${name}`} />`
  const { cron, every, timezone, endpoint, paused, lastError, overlap, misfire } = data
  const post = (verb, said) => async () => {
    const answer = await ask('POST', `${schedulePath(name)}/${verb}`)
    return said ?? `Job ${answer.id} is enqueued.`
  }
  const zone = cron === null ? READER_ZONE : timezone
  return html`<section class="card schedule" aria-label=${name}>
    <div class="head">
      <h2><a href=${addressOf(['schedules', name])}>${name}</a></h2>
      <${State} state=${paused ? 'paused' : 'active'} />
      <span><code>${cron ?? `every ${every}`}</code> ${cron !== null && timezone}</span>
      <span><span class="faint">for</span> <a href=${addressOf(['endpoints', endpoint])}>${endpoint}</a></span>
    </div>
    ${lastError !== null && html`<p class="bad">The last tick failed: <${Foreign} text=${lastError} /></p>`}
    <${NextRuns} runs=${data.nextRuns} zone=${zone} paused=${paused} />
    ${facts([
      ['Job of the last tick', html`<${LastJob} id=${data.lastJobId} />`],
      [
        'While one is not final',
        overlap === 'skip' ? 'a tick is skipped' : 'the next tick enqueues another',
      ],
      ['Missed ticks', misfire === 'once' ? 'are replaced by one job' : 'are skipped'],
    ])}
    <div class="actions" role="group" aria-label=${`Schedule ${name}`}>
      <${Action} label="Run now" act=${post('run', null)} done=${refresh} />
      ${
        paused
          ? html`<${Action} label="Resume" tone="main" act=${post('resume', `${name} is resumed.`)} done=${refresh} />`
          : html`<${Action} label="Pause" act=${post('pause', `${name} is paused.`)} done=${refresh} />`
      }
    </div>
  </section>`
}

function NextRuns({ runs, zone, paused }) {
  if (runs.length === 0) {
    return html`<p class="faint">${paused ? 'Paused: no run is planned.' : 'No further run.'}</p>`
  }
  const isSame = zone === READER_ZONE
  return html`<table class="runs">
    <caption>${paused ? 'The next five runs, were it not paused' : 'The next five runs'}</caption>
    <thead>
      <tr>
        <th scope="col">When</th>
        <th scope="col">${zone}</th>
        ${!isSame && html`<th scope="col">${READER_ZONE}, yours</th>`}
      </tr>
    </thead>
    <tbody>
      ${runs.map(
        (at) => html`<tr key=${at} title=${utc(at)}>
          <td data-label="When"><${When} at=${at} /></td>
          <td data-label=${zone}>${zoned(at, zone)}</td>
          ${!isSame && html`<td data-label="Yours">${zoned(at)}</td>`}
        </tr>`,
      )}
    </tbody>
  </table>`
}

function LastJob({ id }) {
  const { data, error } = useLive(
    async (before, signal) => (id === null ? null : readJob(id, before, signal)),
    EVERY_MS,
    [id],
  )
  if (id === null) return html`<span class="faint">none yet</span>`
  const link = html`<a class="id" href=${addressOf(['jobs', id])}>${id}</a>`
  if (data === null)
    return html`${link} ${error !== null && html`<span class="faint">${error.message}</span>`}`
  const { state, finishedAt, createdAt } = data.job
  return html`<${State} state=${state} /> <${When} at=${finishedAt ?? createdAt} /> ${link}`
}
