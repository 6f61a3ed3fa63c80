// Jobs, newest first. The filters are in the address, and pages follow by cursor.
import { html } from 'htm/preact'
import { addressOf, goTo } from './address.js'
import { ask, queryOf } from './api.js'
import { Bulk } from './bulk.js'
import { useLive } from './live.js'
import { Empty, Foreign, State, Waiting, When } from './parts.js'
import { isLeaseExpired } from './timeline.js'
import { figure, plain, waitText } from './words.js'

const EVERY_MS = 3_000
const PAGE = 50
const STATES = ['queued', 'running', 'succeeded', 'dead', 'cancelled']
const TEXT_FILTERS = ['endpoint', 'tag', 'dedupeKey', 'group', 'createdAfter', 'createdBefore']

/** @param {URLSearchParams} query @returns {Record<string, any>} */
function filterIn(query) {
  const texts = TEXT_FILTERS.map((name) => [name, query.get(name) ?? ''])
  const state = query.getAll('state').filter((one) => STATES.includes(one))
  return { ...Object.fromEntries(texts), state }
}

/** @param {{query?: any}} props */
export function Jobs({ query }) {
  const filter = filterIn(query)
  const cursor = query.get('cursor')
  // An older page is read only once: new jobs would move its rows while they are read.
  const page = useLive(
    (_, signal) =>
      ask('GET', `jobs${queryOf({ ...filter, limit: PAGE, cursor })}`, undefined, { signal }),
    cursor === null ? EVERY_MS : null,
    [filter, cursor],
  )
  return html`
    <h1>Jobs</h1>
    <${Filters} key=${JSON.stringify(filter)} filter=${filter} />
    <${Bulk} key=${`bulk ${JSON.stringify(filter)}`} filter=${filter} done=${page.refresh} />
    ${
      page.data === null
        ? html`<${Waiting} error=${page.error} what="The list of jobs" />`
        : html`<${Page} page=${page.data} filter=${filter} cursor=${cursor} />`
    }
  `
}

function Filters({ filter }) {
  function submit(event) {
    event.preventDefault()
    const form = new FormData(event.target)
    const state = form.getAll('state').map(String)
    const texts = TEXT_FILTERS.map((name) => {
      const text = form.get(name)?.toString().trim() ?? ''
      return [name, name.startsWith('created') ? instantOf(text) : text]
    })
    goTo(['jobs'], { ...Object.fromEntries(texts), state })
  }
  const { tag, dedupeKey, group, createdAfter, createdBefore } = filter
  const more = tag || dedupeKey || group || createdAfter || createdBefore
  return html`<form class="filters card" aria-label="Filters" onSubmit=${submit}>
    <fieldset>
      <legend>State</legend>
      ${STATES.map(
        (state) => html`<label class="tick">
          <input type="checkbox" name="state" value=${state} checked=${filter.state.includes(state)} />
          <${State} state=${state} />
        </label>`,
      )}
    </fieldset>
    <label>Endpoint <input name="endpoint" value=${filter.endpoint} spellcheck="false" /></label>
    <details open=${Boolean(more)}>
      <summary>Tag, dedupe key, group, time</summary>
      <div class="fields">
        <label>Tag <input name="tag" value=${filter.tag} /></label>
        <label>Dedupe key <input name="dedupeKey" value=${filter.dedupeKey} /></label>
        <label>Group <input name="group" value=${filter.group} spellcheck="false" /></label>
        <label>
          Created after
          <input name="createdAfter" type="datetime-local" step="1" value=${localOf(filter.createdAfter)} />
        </label>
        <label>
          Created before
          <input name="createdBefore" type="datetime-local" step="1" value=${localOf(filter.createdBefore)} />
        </label>
      </div>
    </details>
    <div class="actions">
      <button type="submit" class="main">Show</button>
      <a href="#/jobs">All jobs</a>
    </div>
  </form>`
}

/** The form has the user's time zone, the address UTC. @param {string} local */
export function instantOf(local) {
  const at = new Date(local)
  return Number.isNaN(at.getTime()) ? '' : at.toISOString()
}

/** @param {string} instant */
export function localOf(instant) {
  const at = new Date(instant)
  if (Number.isNaN(at.getTime())) return ''
  return new Date(at.getTime() - at.getTimezoneOffset() * 60_000).toISOString().slice(0, 19)
}

function Page({ page, filter, cursor }) {
  const { items, nextCursor } = page
  const next = nextCursor !== null && addressOf(['jobs'], { ...filter, cursor: nextCursor })
  return html`
    ${items.length === 0 && html`<${NoJobs} next=${next} cursor=${cursor} filter=${filter} />`}
    ${items.length > 0 && html`<${JobTable} jobs=${items} />`}
    <nav class="pages" aria-label="Pages of jobs">
      ${cursor !== null && html`<a href=${addressOf(['jobs'], filter)}>Newest</a>`}
      ${next && html`<a href=${next}>${items.length === 0 ? 'Look further' : 'Older'}</a>`}
    </nav>
  `
}

function NoJobs({ next, cursor, filter }) {
  if (next) {
    return html`<${Empty} title="No match among the jobs that were checked">
      <p>A page checks at most 10,000 jobs. Older ones may match.</p>
    <//>`
  }
  if (cursor !== null) return html`<${Empty} title="No older ones"><//>`
  const isFiltered = Object.values(filter).some((value) => value.length > 0)
  if (isFiltered) {
    return html`<${Empty} title="No job matches"><p><a href="#/jobs">Show all jobs</a></p><//>`
  }
  const url = new URL('jobs', document.baseURI)
  const line = `curl ${url} -H 'content-type: application/json' -d '{"endpoint":"invoice-pdf","payload":{"invoice":42}}'`
  return html`<${Empty} title="No job yet">
    <p>Enqueue the first one, for an endpoint that is registered:</p>
    <${Foreign} long text=${line} label="Command" />
  <//>`
}

/** @param {{jobs?: any[], isOfOne?: boolean}} props isOfOne: all jobs belong to one endpoint */
export function JobTable({ jobs = [], isOfOne = false }) {
  return html`<table class="rows jobs">
    <thead>
      <tr>
        <th scope="col">Job</th>
        <th scope="col">State</th>
        ${!isOfOne && html`<th scope="col">Endpoint</th>`}
        <th scope="col">Created</th>
        <th scope="col" class="num">Attempts</th>
        <th scope="col">Details</th>
      </tr>
    </thead>
    <tbody>
      ${jobs.map(
        (job) => html`<tr key=${job.id}>
          <th scope="row"><a class="id" href=${addressOf(['jobs', job.id])}>${job.id}</a></th>
          <td data-label="State"><${State} state=${job.state} /></td>
          ${
            !isOfOne &&
            html`<td data-label="Endpoint">
            <a href=${addressOf(['endpoints', job.endpoint])}>${job.endpoint}</a>
          </td>`
          }
          <td data-label="Created"><${When} at=${job.createdAt} /></td>
          <td data-label="Attempts" class="num">
            ${figure(job.attemptCount)}
            ${job.attemptCount <= job.maxAttempts && ` of ${figure(job.maxAttempts)}`}
          </td>
          <td class="wide"><${Details} job=${job} /></td>
        </tr>`,
      )}
    </tbody>
  </table>`
}

function Details({ job }) {
  const { state, failure, dueAt, attemptCount, progress, phase } = job
  if (state === 'queued') {
    const wait = waitText(job)
    if (wait !== null) return html`<span class="faint">${wait}</span>${tagsOf(job)}`
    const what = attemptCount === 0 ? 'due' : 'next attempt'
    return html`<span class="faint">${what}</span> <${When} at=${dueAt} />${tagsOf(job)}`
  }
  if (state === 'running' && isLeaseExpired(job)) {
    return html`<span>lost: its lease expired </span><${When} at=${job.lease.expiresAt} />${tagsOf(job)}`
  }
  if (state === 'running') {
    const value = progress?.value ?? null
    return html`${value === null ? plain(phase ?? 'running') : `${Math.round(value)} %`}
      ${progress?.message && html` <${Foreign} text=${progress.message} />`}${tagsOf(job)}`
  }
  return html`${failure !== null && html`<span>${plain(failure.reason)}: </span><${Foreign} text=${failure.message} /> `}
    <span class="faint">finished</span> <${When} at=${job.finishedAt} />${tagsOf(job)}`
}

function tagsOf({ tags, scheduleName }) {
  return html`${tags.map((tag) => html` <span class="tag"><${Foreign} text=${tag} /></span>`)}
  ${scheduleName !== null && html` <a href=${addressOf(['schedules', scheduleName])}>by ${scheduleName}</a>`}`
}
