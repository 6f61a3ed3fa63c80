// Retries or cancels all jobs that match the filter, after it has counted them and the user has
// confirmed.
import { html } from 'htm/preact'
import { useState } from 'preact/hooks'
import { ask } from './api.js'
import { Action, Dialog, Foreign } from './parts.js'
import { counted, figure } from './words.js'

/** The most jobs that the API changes in one request. */
const LIMIT = 10_000
/** A request that changes so many jobs can take long. */
const DEADLINE_MS = 120_000

/** @typedef {'retry' | 'cancel'} Verb */

/** @type {Record<Verb, string[]>} */
const CHANGES = { retry: ['dead', 'cancelled'], cancel: ['queued', 'running'] }

/**
 * The filter in the form of the bulk routes, or why they cannot have it.
 *
 * @param {Verb} verb @param {Record<string, any>} filter
 */
function bulkFilter(verb, filter) {
  const { state: shown, dedupeKey, group, ...rest } = filter
  const states = CHANGES[verb].filter((one) => shown.length === 0 || shown.includes(one))
  if (states.length === 0)
    return { why: `only ${CHANGES[verb].join(' and ')} jobs can be changed like this` }
  if (dedupeKey !== '') return { why: 'not with a dedupe key: it belongs to one job' }
  if (group !== '') return { why: 'not with a group: its page has these commands' }
  const given = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== ''))
  const body = states.length === 1 ? { ...given, state: states[0] } : given
  if (Object.keys(body).length === 0)
    return { why: 'filter by a state, an endpoint or a tag first' }
  return { body }
}

/** @param {{filter?: any, done?: () => void}} props */
export function Bulk({ filter, done }) {
  const [asked, setAsked] = useState(
    /** @type {{verb: Verb, body: object, matched: number, more: boolean} | null} */ (null),
  )

  function button(verb, label) {
    const { body, why } = bulkFilter(verb, filter)
    const count = async () => {
      const request = { filter: body, limit: LIMIT, dryRun: true }
      const { matched, more = false } = await ask('POST', `jobs/${verb}`, request)
      setAsked({ verb, body: body ?? {}, matched, more })
    }
    return html`<${Action}
      label=${label}
      act=${count}
      disabled=${body === undefined}
      title=${why}
    />`
  }

  const isBare = Object.values(filter).every((value) => value.length === 0)
  return html`<div class="actions bulk" role="group" aria-label="All jobs that match">
    <span class="faint">All that match:</span>
    ${button('retry', 'Retry …')} ${button('cancel', 'Cancel …')}
    ${isBare && html`<span class="faint">Filter by a state, an endpoint or a tag first.</span>`}
    ${asked !== null && html`<${Confirm} asked=${asked} done=${done} close=${() => setAsked(null)} />`}
  </div>`
}

function Confirm({ asked, done, close }) {
  const { verb, body, matched, more } = asked
  const word = verb === 'retry' ? 'Retry' : 'Cancel'
  async function change() {
    // The command changes at most as many jobs as were counted, even if more match now.
    const request = { filter: body, limit: matched }
    const answer = await ask('POST', `jobs/${verb}`, request, { deadlineMs: DEADLINE_MS })
    const { affected, dependencyFailed } = answer
    const what = verb === 'retry' ? 'queued again' : 'cancelled'
    const isCut = answer.more && affected + (dependencyFailed ?? 0) < answer.matched
    const rest = isCut ? ' The store was too slow for the rest: repeat the action.' : ''
    const changed = `${counted(affected, 'job')} ${what}.${rest}`
    if (dependencyFailed === undefined) return changed
    return `${changed} ${figure(dependencyFailed)} unchanged: a job they depend on is dead, cancelled or deleted.`
  }
  const filters = Object.entries(body).map(([name, value]) => `${name} = ${value}`)
  return html`<${Dialog} title=${`${word} ${counted(matched, 'job')}?`} close=${close}>
    <p>Jobs with <${Foreign} text=${filters.join(', ')} />.</p>
    ${more && html`<p>More match: these are the ${verb === 'retry' ? 'oldest' : 'newest'} ${figure(matched)}.</p>`}
    <p class="faint">
      ${
        verb === 'retry'
          ? 'Each is queued again, due now, with all its attempts, oldest first. A job whose dependency stays dead is not changed.'
          : 'A handler that is working may still finish; its response is discarded.'
      }
    </p>
    <div class="actions">
      <${Action}
        label=${`${word} ${counted(matched, 'job')}`}
        tone=${verb === 'retry' ? 'main' : 'danger'}
        disabled=${matched === 0}
        act=${change}
        done=${() => {
          close()
          done()
        }}
      />
      <button type="button" onClick=${close}>Keep them unchanged</button>
    </div>
  <//>`
}
