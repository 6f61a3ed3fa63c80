// The entry point: the frame around every page, and the choice of the page.

import { html } from 'htm/preact'
import { render } from 'preact'
import { useEffect, useRef } from 'preact/hooks'
import { addressOf, goTo, useAddress } from './address.js'
import { hasKey, keepKey } from './api.js'
import { Endpoint } from './endpoint.js'
import { FairKeys } from './fair-keys.js'
import { Group } from './group.js'
import { Groups } from './groups.js'
import { Job } from './job.js'
import { Jobs } from './jobs.js'
import { KeyForm } from './key-form.js'
import { useConnection, useTick } from './live.js'
import { Overview } from './overview.js'
import { Empty, Messages } from './parts.js'
import { Schedules } from './schedules.js'
import { relative } from './words.js'

const PLACES = [
  { title: 'Overview', words: [] },
  { title: 'Jobs', words: ['jobs'] },
  { title: 'Groups', words: ['groups'] },
  { title: 'Schedules', words: ['schedules'] },
]

function Dashboard() {
  const { words, query } = useAddress()
  const { keyWanted } = useConnection()
  const main = useRef(/** @type {HTMLElement | null} */ (null))
  const isFirst = useRef(true)
  const path = words.join('/')

  useEffect(() => {
    document.title = ['Posthorn', ...words].reverse().join(' · ')
    // Moves the focus to the beginning of a new page, for screen readers. On the first page it is
    // there already.
    if (isFirst.current) isFirst.current = false
    else main.current?.focus()
    scrollTo(0, 0)
  }, [path])

  return html`
    <button type="button" class="skip" onClick=${() => main.current?.focus()}>To the content</button>
    <${Bar} section=${words[0]} />
    <${Reach} />
    <main ref=${main} tabindex="-1">
      ${keyWanted === null ? pageOf(words, query) : html`<${KeyForm} why=${keyWanted} />`}
    </main>
    <${Messages} />
  `
}

/** @param {string[]} words @param {URLSearchParams} query */
function pageOf([section, name, ...more], query) {
  if (section === undefined) return html`<${Overview} />`
  if (more.length === 0) {
    if (section === 'endpoints' && name) return html`<${Endpoint} key=${name} name=${name} />`
    if (section === 'jobs' && name) return html`<${Job} key=${name} id=${name} />`
    if (section === 'jobs') return html`<${Jobs} query=${query} />`
    if (section === 'groups' && name) return html`<${Group} key=${name} id=${name} />`
    if (section === 'groups') return html`<${Groups} query=${query} />`
    if (section === 'schedules') return html`<${Schedules} name=${name} query=${query} />`
  }
  if (section === 'endpoints' && name && more.length === 1 && more[0] === 'keys') {
    return html`<${FairKeys} key=${name} name=${name} query=${query} />`
  }
  return html`<h1>Nothing here</h1>
    <${Empty} title="There is no such page"><p><a href="#/">Go to the overview</a></p><//>`
}

function Bar({ section }) {
  const find = (event) => {
    event.preventDefault()
    const id = new FormData(event.target).get('id')?.toString().trim()
    if (id) goTo(['jobs', id])
    event.target.reset()
  }
  return html`<header class="bar">
    <a class="brand" href="#/"><img src="dashboard/icon.svg" alt="" width="22" height="22" />Posthorn</a>
    <nav aria-label="Pages">
      ${PLACES.map(
        ({ title, words }) =>
          html`<a href=${addressOf(words)} aria-current=${words[0] === section ? 'page' : undefined}
            >${title}</a
          >`,
      )}
      <a href="docs">API</a>
    </nav>
    <form class="find" role="search" onSubmit=${find}>
      <input name="id" aria-label="Job id" placeholder="Job id" autocomplete="off" spellcheck="false" />
      <button type="submit">Open</button>
    </form>
    ${hasKey() && html`<button type="button" class="quiet" onClick=${() => keepKey(null)}>Forget key</button>`}
  </header>`
}

/** A line that is visible only while the API does not respond. */
function Reach() {
  const { failingSince, why } = useConnection()
  useTick()
  const since = failingSince === null ? '' : new Date(failingSince).toLocaleTimeString('en-GB')
  // The relative time is outside the alert, so that screen readers do not announce each second.
  return html`<div class=${since && 'reach'}>
    <strong role="alert">${since && `Not reachable since ${since}`}</strong>
    ${
      since &&
      html` (${relative(failingSince ?? 0, Date.now())}): ${why}. What is shown is from before; this
        page keeps trying.`
    }
  </div>`
}

const root = /** @type {HTMLElement} */ (document.getElementById('dashboard'))
root.replaceChildren()
render(html`<${Dashboard} />`, root)
