// The life of a job drawn to scale: when it waited, and when its attempts ran.
import { html } from 'htm/preact'
import { now } from './api.js'
import { useTick } from './live.js'
import { toneOf } from './parts.js'
import { counted, plain, span } from './words.js'

/** Percent of the width, so that an attempt of 20 ms within a day stays visible. */
const MIN_WIDTH = 0.7
const MIN_APART = 4

/** @param {{job?: any}} props */
export function Timeline({ job }) {
  useTick()
  const { attempts } = job
  const created = Date.parse(job.createdAt)
  const isFinal = job.finishedAt !== null
  const runAt = Date.parse(job.dueAt ?? job.runAt)
  const nowMs = now()
  const ends = [created + 1, ...attempts.map(({ finishedAt }) => Date.parse(finishedAt))]
  if (isFinal) ends.push(Date.parse(job.finishedAt))
  else ends.push(nowMs, job.state === 'queued' ? runAt : nowMs)
  const end = Math.max(...ends)
  const at = (ms) =>
    Math.min(100 - MIN_WIDTH, Math.max(0, ((ms - created) / (end - created)) * 100))
  const width = (from, to) => Math.max(MIN_WIDTH, at(to) - at(from))
  const isWaiting = job.state === 'queued' && runAt > nowMs
  const running = runningSince(job)

  return html`<figure class="timeline">
    <svg role="img" aria-label=${labelOf(job, end - created)} height="64" width="100%">
      <line class="axis" x1="0" x2="100%" y1="36" y2="36" />
      ${attempts.map((one, i) => {
        const from = Date.parse(one.startedAt)
        const to = Date.parse(one.finishedAt)
        const x = at(from)
        // A number that would overlap the previous one is left out.
        const isClear = i === 0 || x - at(Date.parse(attempts[i - 1].startedAt)) > MIN_APART
        return html`<g key=${one.number} class=${toneOf(one.outcome)}>
          <title>${`${one.number}: ${plain(one.outcome)}, ${span(to - from)}`}</title>
          <rect x=${`${x}%`} width=${`${width(from, to)}%`} y="22" height="28" rx="2" />
          ${isClear && html`<text x=${`${x}%`} y="16">${one.number}</text>`}
        </g>`
      })}
      ${
        running !== null &&
        html`<g class="live">
        <title>${isLeaseExpired(job) ? 'lost: its lease has expired' : 'under way'}</title>
        <rect x=${`${at(running)}%`} width=${`${width(running, nowMs)}%`} y="22" height="28" rx="2" />
        <text x=${`${at(running)}%`} y="16">${job.attemptCount}</text>
      </g>`
      }
      ${
        isWaiting &&
        html`<g class="now">
        <line x1=${`${at(nowMs)}%`} x2=${`${at(nowMs)}%`} y1="14" y2="58" />
        <text x=${`${at(nowMs)}%`} y="10">now</text>
        <rect class="next" x=${`${at(runAt)}%`} width=${`${MIN_WIDTH}%`} y="22" height="28" rx="2" />
      </g>`
      }
    </svg>
    <figcaption>
      <span>enqueued</span>
      <span>+${span((end - created) / 2)}</span>
      <span>${endName(job, isWaiting)} +${span(end - created)}</span>
    </figcaption>
  </figure>`
}

/** Whether the lease has expired and no sweep has found that yet. @param {any} job */
export function isLeaseExpired({ lease }) {
  return lease !== null && Date.parse(lease.expiresAt) <= now()
}

/**
 * Approximate for a running job: the API shows when its first attempt began, and when later ones
 * ended.
 */
function runningSince(job) {
  if (job.state !== 'running') return null
  const last = job.attempts.at(-1)
  const began = last === undefined ? job.startedAt : last.finishedAt
  return Math.max(Date.parse(began ?? job.createdAt), Date.parse(job.runAt))
}

function endName(job, isWaiting) {
  if (job.finishedAt !== null) return job.state
  return isWaiting ? 'next attempt' : 'now'
}

function labelOf({ attempts, state }, lengthMs) {
  const outcomes = attempts.map(({ outcome }) => plain(outcome)).join(', ')
  return `${counted(attempts.length, 'attempt')} over ${span(lengthMs)}: ${outcomes || 'none'}; ${state}`
}
