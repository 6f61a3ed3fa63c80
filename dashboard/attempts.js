// Each attempt of a job: how long it waited and took, its outcome, and the response of the
// endpoint.
import { html } from 'htm/preact'
import { Foreign, State, When } from './parts.js'
import { figure, span, utc } from './words.js'

/** @param {{job?: any}} props */
export function Attempts({ job }) {
  const { attempts } = job
  if (attempts.length === 0) return html`<p class="faint">None has ended yet.</p>`
  const left = job.attemptCount - attempts.length - (job.state === 'running' ? 1 : 0)
  return html`
    ${left > 0 && html`<p class="faint">The last ${attempts.length}; ${figure(left)} before are not kept.</p>`}
    <ol class="attempts">
      ${attempts.map((one, i) => html`<${Attempt} key=${`${one.number} ${one.startedAt}`} one=${one} waitedMs=${waitOf(job, i)} isOpen=${i === attempts.length - 1} />`).reverse()}
    </ol>
  `
}

/** The time since the previous attempt ended, or since the job was created. */
function waitOf({ attempts, createdAt }, i) {
  const from = i === 0 ? createdAt : attempts[i - 1].finishedAt
  return Date.parse(attempts[i].startedAt) - Date.parse(from)
}

/**
 * @param {{one?: any, waitedMs?: number, isOpen?: boolean}} props isOpen: the response is shown at
 * once
 */
export function Attempt({ one, waitedMs, isOpen = true }) {
  const { number, outcome, statusCode, errorCode, message, responseBody } = one
  return html`<li class="card">
    <p class="line">
      <strong>${number}</strong>
      <${State} state=${outcome} />
      ${statusCode !== null && html`<code>${statusCode}</code>`}
      ${errorCode !== null && html`<code><${Foreign} text=${errorCode} /></code>`}
      <span>took ${span(one.durationMs)}</span>
      ${waitedMs !== undefined && html`<span class="faint">after ${span(waitedMs)} of waiting</span>`}
      <span class="faint" title=${utc(one.startedAt)}>started <${When} at=${one.startedAt} /></span>
      <span class="faint">by <${Foreign} text=${one.workerId} /></span>
    </p>
    ${message !== null && html`<p><${Foreign} text=${message} /></p>`}
    ${
      responseBody !== null &&
      responseBody !== '' &&
      html`<details open=${isOpen}>
      <summary>Response, ${figure(responseBody.length)} characters kept</summary>
      <${Foreign} long text=${responseBody} label=${`Response to attempt ${number}`} />
    </details>`
    }
  </li>`
}
