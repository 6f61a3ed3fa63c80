// One job: its state and outcome, why it waits, and the commands for it.
import { html } from 'htm/preact'
import { useEffect, useState } from 'preact/hooks'
import { addressOf } from './address.js'
import { ask, now } from './api.js'
import { Attempts } from './attempts.js'
import { curlLine } from './curl-line.js'
import { EditDialog } from './edit-dialog.js'
import { jobPath, readJob } from './job-reads.js'
import { useLive } from './live.js'
import { Action, copy, Foreign, facts, State, Waiting, When } from './parts.js'
import { Payload, Result } from './payload.js'
import { isLeaseExpired, Timeline } from './timeline.js'
import { counted, figure, plain, utc, waitText, withInstants } from './words.js'

const EVERY_MS = 2_000

/** @param {{id?: string}} props */
export function Job({ id = '' }) {
  const read = useLive((before, signal) => readJob(id, before, signal), EVERY_MS, [id])
  if (read.data === null) {
    return html`<h1 class="id">${id}</h1><${Waiting} error=${read.error} what="The job" />`
  }
  const { job } = read.data
  const isGone = read.error !== null && 'status' in read.error && read.error.status === 404
  return html`
    <div class="head">
      <h1><span class="faint">Job</span> <span class="id">${job.id}</span></h1>
      <${State} state=${job.state} />
      ${job.finishedAt !== null && html`<${When} at=${job.finishedAt} />`}
      ${isGone && html`<strong class="bad">It was deleted in the meantime.</strong>`}
    </div>
    <${Why} job=${job} refresh=${read.refresh} />
    <${Commands} job=${job} refresh=${read.refresh} />
    <section aria-labelledby="attempts">
      <h2 id="attempts">Attempts</h2>
      <${Timeline} job=${job} />
      <${Attempts} job=${job} />
    </section>
    <${Facts} job=${job} />
    <${Result} job=${job} />
    <${Payload} job=${job} />
  `
}

function Why({ job, refresh }) {
  const isFinal = job.finishedAt !== null
  const explained = useLive(
    (_, signal) => ask('GET', `${jobPath(job.id)}/explain`, undefined, { signal }),
    isFinal ? null : EVERY_MS,
    [job.id, job.version],
  )
  const [kept, setKept] = useState(/** @type {any} */ (null))
  if (explained.data !== null && explained.data !== kept) setKept(explained.data)
  const { progress } = job
  // The explanation is a second request, so it may describe a later version of the job than the
  // page.
  const isAhead = explained.data !== null && explained.data.version > job.version
  useEffect(() => {
    if (isAhead) refresh()
  }, [isAhead, job.version])
  const latest = explained.data ?? kept
  const explanation = latest !== null && latest.state === job.state ? latest : null
  return html`<div class="card why-card">
    <span class="hidden" role="status">${job.state}</span>
    ${
      explanation === null
        ? html`<p class="faint">…</p>`
        : html`<p>
          <strong>${plain(explanation.reason)}</strong>
          <span> – <${Foreign} text=${withInstants(explanation.detail, now())} /></span>
          ${
            explanation.expectedAt !== null &&
            !explanation.detail.includes(explanation.expectedAt) &&
            html`<span class="faint"> · may change <${When} at=${explanation.expectedAt} /></span>`
          }
        </p>`
    }
    ${
      progress !== null &&
      html`<p class="progress">
      ${
        progress.value !== null &&
        html`<progress max="100" value=${progress.value} aria-label="Progress"></progress> ${Math.round(progress.value)} %`
      }
      ${progress.message !== null && html`<${Foreign} text=${progress.message} />`}
      <span class="faint">reported <${When} at=${progress.at} /></span>
    </p>`
    }
  </div>`
}

function Commands({ job, refresh }) {
  const [isEditing, setEditing] = useState(false)
  const isFinal = job.finishedAt !== null
  const isQueued = job.state === 'queued'
  const cancel = async () => {
    await ask('POST', `${jobPath(job.id)}/cancel`)
    return 'The job is cancelled.'
  }
  const retry = async () => {
    const { dependenciesWaived } = await ask('POST', `${jobPath(job.id)}/retry`)
    const without = dependenciesWaived.length
    if (without === 0) return 'The job is queued again.'
    return `The job is queued again. It runs without ${counted(without, 'job')} that it depends on.`
  }
  const runNow = async () => {
    await ask('PATCH', jobPath(job.id), { delay: '0s' })
    return 'It is due now.'
  }
  const copyCurl = async () => copy(await curlLine(job), 'A curl line that enqueues the same')
  return html`<div class="actions" role="group" aria-label="This job">
    ${isQueued && html`<${Action} label="Run now" tone="main" act=${runNow} done=${refresh} />`}
    ${isQueued && html`<button type="button" onClick=${() => setEditing(true)}>Edit …</button>`}
    ${!isFinal && html`<${Action} label="Cancel" tone="danger" act=${cancel} done=${refresh} />`}
    ${
      (job.state === 'dead' || job.state === 'cancelled') &&
      html`<${Action} label="Retry" tone="main" act=${retry} done=${refresh} />`
    }
    <${Action} label="Copy as curl" act=${copyCurl} />
    ${
      isEditing &&
      html`<${EditDialog} job=${job} refresh=${refresh} close=${() => setEditing(false)} />`
    }
  </div>`
}

function Facts({ job }) {
  const linked = (id) => html`<a class="id" key=${id} href=${addressOf(['jobs', id])}>${id}</a>`
  /** @type {[string, unknown][]} */
  const pairs = [
    ['Endpoint', html`<a href=${addressOf(['endpoints', job.endpoint])}>${job.endpoint}</a>`],
    ['Priority', job.priority],
    ['Created', instant(job.createdAt)],
    [
      'Due',
      waitText(job) === null
        ? instant(job.dueAt ?? job.runAt)
        : `at the earliest ${utc(job.runAt)}`,
    ],
    ['Started', instant(job.startedAt)],
    ['Finished', instant(job.finishedAt)],
    ['Attempts', attemptsText(job)],
    ['Fence', job.fence],
    ['Expires', job.expiresAt && instant(job.expiresAt)],
    [
      'Lease',
      job.lease &&
        html`<${Foreign} text=${job.lease.workerId} />, ${isLeaseExpired(job) ? 'expired' : 'until'} ${instant(job.lease.expiresAt)}`,
    ],
    [
      'Failure',
      job.failure && html`${plain(job.failure.reason)}: <${Foreign} text=${job.failure.message} />`,
    ],
    [
      'Schedule',
      job.scheduleName &&
        html`<a href=${addressOf(['schedules', job.scheduleName])}>${job.scheduleName}</a>`,
    ],
    [
      'Group',
      job.group && html`<a class="id" href=${addressOf(['groups', job.group])}>${job.group}</a>`,
    ],
    ['Waits for', job.dependsOn.length > 0 && listed(job.dependsOn.map(linked))],
    ['Ordering key', job.orderingKey && html`<${Foreign} text=${job.orderingKey} />`],
    ['Fairness key', job.fairnessKey && html`<${Foreign} text=${job.fairnessKey} />`],
    ['Cost', job.cost !== 1 && job.cost],
    ['Dedupe key', job.dedupeKey && html`<${Foreign} text=${job.dedupeKey} />`],
    ['Idempotency key', job.idempotencyKey && html`<${Foreign} text=${job.idempotencyKey} />`],
    ['Timeout of its own', job.timeout],
    ['Tags', job.tags.length > 0 && html`<${Foreign} text=${job.tags.join(', ')} />`],
    ...Object.entries(job.metadata).map(
      ([name, value]) =>
        /** @type {[string, unknown]} */ ([name, html`<${Foreign} text=${value} />`]),
    ),
  ]
  return html`<section aria-labelledby="facts">
    <h2 id="facts">The job</h2>
    ${facts(pairs.filter(([, value]) => value !== null && value !== false))}
  </section>`
}

/** The items of one fact, one on each line: ids on one line would look like one id. */
function listed(items) {
  return html`<ul class="plain">${items.map((item) => html`<li key=${item.key}>${item}</li>`)}</ul>`
}

function attemptsText({ attemptCount, maxAttempts }) {
  const sent = `${figure(attemptCount)} sent`
  if (attemptCount <= maxAttempts) return `${sent}, ${figure(maxAttempts)} allowed`
  return `${sent}; ${figure(maxAttempts)} allowed after each retry by hand, throttled ones are free`
}

function instant(at) {
  if (at === null) return html`<span class="faint">–</span>`
  return html`<${When} at=${at} /> <span class="faint">${utc(at)}</span>`
}
