// One group: how many of its members are in each state, how fast they end, which of them failed,
// and the commands for it.
import { html } from 'htm/preact'
import { useRef, useState } from 'preact/hooks'
import { addressOf, goTo } from './address.js'
import { ask, now, queryOf } from './api.js'
import { JobTable } from './jobs.js'
import { useLive } from './live.js'
import { Action, Dialog, Foreign, facts, State, Waiting, When } from './parts.js'
import { counted, figure, plain, span, utc } from './words.js'

const EVERY_MS = 2_000
const FAILURES = 5
const STATES = ['succeeded', 'dead', 'cancelled', 'running', 'queued']
/** The rate is that of the last minutes. */
const RATE_OVER_MS = 300_000
/** A shorter time says little. */
const LEAST_RATE_MS = 5_000

/** @param {string} id */
const groupPath = (id) => `groups/${encodeURIComponent(id)}`

/** @param {{id?: string}} props */
export function Group({ id = '' }) {
  const { data, error, refresh } = useLive((_, signal) => readGroup(id, signal), EVERY_MS, [id])
  const rate = useRate(data?.group ?? null)
  if (data === null) {
    return html`<h1 class="id">${id}</h1><${Waiting} error=${error} what="The group" />`
  }
  const { group, failed } = data
  const isGone = error !== null && 'status' in error && error.status === 404
  return html`
    <div class="head">
      <h1><span class="faint">Group</span> ${group.name === null ? group.id : html`<${Foreign} text=${group.name} />`}</h1>
      <${State} state=${group.state} />
      ${group.finishedAt !== null && html`<${When} at=${group.finishedAt} />`}
      ${isGone && html`<strong class="bad">It was deleted in the meantime.</strong>`}
    </div>
    <${Progress} group=${group} rate=${rate} />
    <${Commands} group=${group} refresh=${refresh} />
    ${failed.length > 0 && html`<${Failures} group=${group} jobs=${failed} />`}
    <${Facts} group=${group} />
  `
}

/** @param {string} id @param {AbortSignal} signal */
async function readGroup(id, signal) {
  const group = await ask('GET', groupPath(id), undefined, { signal })
  if (group.counts.dead === 0) return { group, failed: [] }
  const query = queryOf({ group: id, state: 'dead', limit: FAILURES })
  const { items } = await ask('GET', `jobs${query}`, undefined, { signal })
  return { group, failed: items }
}

/** A part for each state, in the order of the table. @param {{group?: any}} props */
export function Bar({ group }) {
  const { members, counts } = group
  const parts = STATES.map((state) => ({ state, count: counts[state] ?? 0 }))
  const known = parts.reduce((sum, { count }) => sum + count, 0)
  const text = parts
    .filter(({ count }) => count > 0)
    .map(({ state, count }) => `${figure(count)} ${state}`)
  return html`<span class="group-bar" role="img" aria-label=${text.join(', ') || 'no members'}>
    ${parts.map(
      ({ state, count }) =>
        count > 0 && html`<span key=${state} class=${state} style=${`flex-grow: ${count}`}></span>`,
    )}
    ${members > known && html`<span style=${`flex-grow: ${members - known}`}></span>`}
  </span>`
}

function Progress({ group, rate }) {
  const { counts, members, progress } = group
  /** @type {[string, unknown][]} */
  const states = STATES.map((state) => [
    `${state.charAt(0).toUpperCase()}${state.slice(1)}`,
    html`<a href=${addressOf(['jobs'], { group: group.id, state })}>${figure(counts[state], counts.more)}</a>`,
  ])
  return html`<div class="card group-card">
    <p class="group-progress"><${Bar} group=${group} /> <strong>${progress} %</strong></p>
    ${facts([['Members', figure(members)], ...states])}
    <p>${rateText(group, rate)}</p>
  </div>`
}

/** @param {any} group @param {number | null} rate members that end in a ms */
function rateText({ members, counts, finishedAt, state }, rate) {
  const left = members - counts.succeeded - counts.dead - counts.cancelled
  if (finishedAt !== null) return html`<span class="faint">All members are final.</span>`
  if (rate === null) return html`<span class="faint">The rate is being measured …</span>`
  if (rate === 0) return 'No member ended in the last minutes.'
  const perMinute = `${figure(Math.round(rate * 60_000))} members end a minute`
  if (left === 0) return `${perMinute}.`
  const isOpen = state === 'open' ? ' if no more are added' : ''
  return `${perMinute}; the last one is expected in ${span(left / rate)}${isOpen}.`
}

/**
 * How many members ended in a millisecond of the last minutes, since the page was opened. null: it
 * was opened too lately.
 *
 * @param {any} group
 */
function useRate(group) {
  const samples = useRef(/** @type {{at: number, final: number}[]} */ ([]))
  if (group === null) return null
  const { succeeded, dead, cancelled } = group.counts
  const final = succeeded + dead + cancelled
  const at = now()
  const kept = samples.current
  const last = kept.at(-1)
  // A retry takes members out of the counts.
  if (last !== undefined && final < last.final) kept.length = 0
  if (last === undefined || at - last.at >= EVERY_MS / 2) kept.push({ at, final })
  while (kept.length > 2 && at - (kept[0]?.at ?? at) > RATE_OVER_MS) kept.shift()
  const [first] = kept
  if (first === undefined || at - first.at < LEAST_RATE_MS) return null
  return (final - first.final) / (at - first.at)
}

function Commands({ group, refresh }) {
  const { id, state, counts } = group
  const [asked, setAsked] = useState(/** @type {'cancel' | 'delete' | null} */ (null))
  const isFinal = state === 'succeeded' || state === 'failed'
  const close = async () => {
    await ask('POST', `${groupPath(id)}/close`)
    return 'The group is closed: it takes no more jobs.'
  }
  const retry = async () => {
    await ask('POST', `${groupPath(id)}/retry`)
    return 'Its dead and cancelled jobs are queued again, one after another.'
  }
  const unsuccessful = counts.dead + counts.cancelled
  return html`<div class="actions" role="group" aria-label="This group">
    ${state === 'open' && html`<${Action} label="Close" tone="main" act=${close} done=${refresh} />`}
    ${
      (state === 'closed' || state === 'failed') &&
      unsuccessful > 0 &&
      html`<${Action} label=${`Retry ${counted(unsuccessful, 'job')}`} tone="main" act=${retry} done=${refresh} />`
    }
    ${
      !isFinal &&
      state !== 'cancelling' &&
      html`<button type="button" class="danger" onClick=${() => setAsked('cancel')}>Cancel …</button>`
    }
    ${isFinal && html`<button type="button" class="danger" onClick=${() => setAsked('delete')}>Delete …</button>`}
    <a href=${addressOf(['jobs'], { group: id })}>All its jobs</a>
    ${
      asked !== null &&
      html`<${Confirm} group=${group} verb=${asked} refresh=${refresh} close=${() => setAsked(null)} />`
    }
  </div>`
}

function Confirm({ group, verb, refresh, close }) {
  const left = group.counts.queued + group.counts.running
  const isCancel = verb === 'cancel'
  const title = isCancel ? `Cancel ${counted(left, 'job')}?` : 'Delete this group?'
  const change = async () => {
    if (isCancel) {
      await ask('POST', `${groupPath(group.id)}/cancel`)
      return 'Its jobs are cancelled, one after another.'
    }
    await ask('DELETE', groupPath(group.id))
    goTo(['groups'])
    return 'The group is deleted.'
  }
  return html`<${Dialog} title=${title} close=${close}>
    <p>
      ${
        isCancel
          ? 'The group takes no more jobs. A handler that is working may still finish; its response is discarded.'
          : 'Its jobs stay.'
      }
    </p>
    <div class="actions">
      <${Action}
        label=${isCancel ? 'Cancel the group' : 'Delete the group'}
        tone="danger"
        act=${change}
        done=${() => {
          close()
          if (isCancel) refresh()
        }}
      />
      <button type="button" onClick=${close}>Keep it</button>
    </div>
  <//>`
}

function Failures({ group, jobs }) {
  const more = group.counts.dead > jobs.length
  return html`<section aria-labelledby="failures">
    <h2 id="failures">${more ? `The newest ${jobs.length} of ${figure(group.counts.dead)} dead jobs` : 'Dead jobs'}</h2>
    <${JobTable} jobs=${jobs} />
    ${more && html`<p><a href=${addressOf(['jobs'], { group: group.id, state: 'dead' })}>All dead jobs</a></p>`}
  </section>`
}

function Facts({ group }) {
  const closedBy = { request: 'by a request', idle: 'by closeAfter', cancel: 'by a cancel' }
  /** @type {[string, unknown][]} */
  const pairs = [
    ['Id', html`<span class="id">${group.id}</span>`],
    ['Created', instant(group.createdAt)],
    ['Closes', group.closesAt && html`${instant(group.closesAt)}, unless a job is added`],
    [
      'Closed',
      group.closedAt &&
        html`${instant(group.closedAt)}, ${closedBy[/** @type {'idle'} */ (group.closedBy)]}`,
    ],
    ['Finished', group.finishedAt && instant(group.finishedAt)],
    ['Finished so often', group.finishes > 1 && figure(group.finishes)],
    [
      'Notices',
      group.onFinish.length > 0 && html`<ul class="plain">${group.onFinish.map(noticeOf)}</ul>`,
    ],
    ['Fairness key', group.fairnessKey && html`<${Foreign} text=${group.fairnessKey} />`],
    ['Idempotency key', group.idempotencyKey && html`<${Foreign} text=${group.idempotencyKey} />`],
    ['Tags', group.tags.length > 0 && html`<${Foreign} text=${group.tags.join(', ')} />`],
    ...Object.entries(group.metadata).map(
      ([name, value]) =>
        /** @type {[string, unknown]} */ ([name, html`<${Foreign} text=${value} />`]),
    ),
  ]
  return html`<section aria-labelledby="facts">
    <h2 id="facts">The group</h2>
    ${facts(pairs.filter(([, value]) => value !== null && value !== false))}
  </section>`
}

function noticeOf({ endpoint, when }) {
  const link = html`<a href=${addressOf(['endpoints', endpoint])}>${endpoint}</a>`
  return html`<li key=${`${endpoint} ${when}`}>${link}, when ${plain(when)}</li>`
}

function instant(at) {
  return html`<${When} at=${at} /> <span class="faint">${utc(at)}</span>`
}
