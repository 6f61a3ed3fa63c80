// The fairness keys of an endpoint: how many jobs of each wait and run. They are called fair keys
// here, because API keys are keys, too.
import { html } from 'htm/preact'
import { addressOf } from './address.js'
import { ask, queryOf } from './api.js'
import { useLive } from './live.js'
import { Empty, Foreign, Waiting } from './parts.js'
import { figure, utc } from './words.js'

const EVERY_MS = 3_000
const PAGE = 50
const FIGURES = ['queued', 'due', 'running']

/** The pages of one endpoint. @param {{name?: string, at?: 'endpoint' | 'keys'}} props */
export function EndpointTabs({ name = '', at }) {
  const link = (tab, words, title) =>
    html`<a href=${addressOf(words)} aria-current=${tab === at ? 'page' : undefined}>${title}</a>`
  return html`<nav class="tabs" aria-label="Pages of this endpoint">
    ${link('endpoint', ['endpoints', name], 'Endpoint')}
    ${link('keys', ['endpoints', name, 'keys'], 'Fair keys')}
  </nav>`
}

/** @param {{name?: string, query?: any}} props */
export function FairKeys({ name = '', query }) {
  const [cursor, order] = [query.get('cursor'), query.get('order')]
  const { data, error } = useLive(
    (_, signal) => {
      const fields = queryOf({ limit: PAGE, order, cursor })
      const path = `endpoints/${encodeURIComponent(name)}/keys${fields}`
      return ask('GET', path, undefined, { signal })
    },
    EVERY_MS,
    [name, order, cursor],
  )
  return html`
    <h1><span class="faint">Endpoint</span> ${name}</h1>
    <${EndpointTabs} name=${name} at="keys" />
    ${
      data === null
        ? html`<${Waiting} error=${error} what="The list of fair keys" />`
        : html`<${Page} name=${name} page=${data} order=${order} cursor=${cursor} />`
    }
  `
}

function Page({ name, page, order, cursor }) {
  const { items, nextCursor, partial } = page
  const words = ['endpoints', name, 'keys']
  const isByWait = order === 'wait'
  return html`
    ${items.length === 0 && html`<${NoKeys} isLast=${nextCursor === null} cursor=${cursor} />`}
    ${items.length > 0 && html`<${KeyTable} keys=${items} isByWait=${isByWait} />`}
    ${partial === true && html`<p class="faint">Only the first 10,000 keys were compared.</p>`}
    <nav class="pages" aria-label="Pages of fair keys">
      ${
        isByWait
          ? html`<a href=${addressOf(words)}>By key</a>`
          : html`<a href=${addressOf(words, { order: 'wait' })}>Longest wait first</a>`
      }
      ${cursor !== null && html`<a href=${addressOf(words, { order })}>First</a>`}
      ${
        nextCursor !== null &&
        html`<a href=${addressOf(words, { order, cursor: nextCursor })}>Further</a>`
      }
    </nav>
  `
}

function NoKeys({ isLast, cursor }) {
  if (!isLast)
    return html`<${Empty} title="No key on this page"><p>There may be further ones.</p><//>`
  if (cursor !== null) return html`<${Empty} title="No further keys"><//>`
  return html`<${Empty} title="No fairness key has jobs here">
    <p>Jobs with a <code>fairnessKey</code> take turns, so that no customer delays the others.</p>
  <//>`
}

function KeyTable({ keys, isByWait }) {
  return html`<table class="rows">
    <caption>
      ${
        isByWait
          ? 'Keys with due jobs, the one that waits longest first.'
          : 'By key. Keys without queued and running jobs are not listed.'
      }
    </caption>
    <thead>
      <tr>
        <th scope="col">Key</th>
        <th scope="col" class="num">Queued</th>
        <th scope="col" class="num">Due</th>
        <th scope="col" class="num">Running</th>
        <th scope="col">Settings</th>
      </tr>
    </thead>
    <tbody>
      ${keys.map(
        (row) => html`<tr key=${row.key}>
          <th scope="row"><${Foreign} text=${row.key} /></th>
          ${FIGURES.map((one) => {
            const tone = row[one] === 0 ? 'faint' : ''
            return html`<td class="num ${tone}" data-label=${one}>${figure(row[one], row.more)}</td>`
          })}
          <td data-label="settings">
            ${settingsText(row)}
            ${
              row.restingUntil !== null &&
              html`<div>resting until ${utc(row.restingUntil).slice(11)}</div>`
            }
          </td>
        </tr>`,
      )}
    </tbody>
  </table>`
}

/** Only what differs from a key without settings and limits. @param {any} key */
function settingsText({ weight, concurrency, rateLimit, paused }) {
  return [
    ...(paused ? ['paused'] : []),
    ...(weight === 1 ? [] : [`weight ${figure(weight)}`]),
    ...(concurrency === null ? [] : [`at most ${figure(concurrency)} at a time`]),
    ...(rateLimit === null ? [] : [`${figure(rateLimit.count)} per ${rateLimit.per}`]),
  ].join(', ')
}
