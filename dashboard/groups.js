// Groups, newest first: how far each one is, and how it ended.
import { html } from 'htm/preact'
import { addressOf } from './address.js'
import { ask, queryOf } from './api.js'
import { Bar } from './group.js'
import { useLive } from './live.js'
import { Empty, Foreign, State, Waiting, When } from './parts.js'
import { figure } from './words.js'

const EVERY_MS = 3_000
const PAGE = 50

/** @param {{query?: any}} props */
export function Groups({ query }) {
  const cursor = query.get('cursor')
  const { data, error } = useLive(
    (_, signal) => ask('GET', `groups${queryOf({ limit: PAGE, cursor })}`, undefined, { signal }),
    EVERY_MS,
    [cursor],
  )
  return html`
    <h1>Groups</h1>
    ${
      data === null
        ? html`<${Waiting} error=${error} what="The list of groups" />`
        : html`<${Page} page=${data} cursor=${cursor} />`
    }
  `
}

function Page({ page: { items, nextCursor }, cursor }) {
  if (items.length === 0) return html`<${NoGroups} cursor=${cursor} />`
  return html`
    <table class="rows">
      <thead>
        <tr>
          <th scope="col">Group</th>
          <th scope="col">State</th>
          <th scope="col">Progress</th>
          <th scope="col" class="num">Members</th>
          <th scope="col" class="num">Dead</th>
          <th scope="col">Created</th>
        </tr>
      </thead>
      <tbody>
        ${items.map(
          (group) => html`<tr key=${group.id}>
            <th scope="row">
              <a class="id" href=${addressOf(['groups', group.id])}>${group.id}</a>
              ${group.name !== null && html`<div><${Foreign} text=${group.name} /></div>`}
            </th>
            <td data-label="State"><${State} state=${group.state} /></td>
            <td data-label="Progress"><${Bar} group=${group} /> ${group.progress} %</td>
            <td data-label="Members" class="num">${figure(group.members)}</td>
            <td data-label="Dead" class="num ${group.counts.dead === 0 ? 'faint' : ''}">
              ${figure(group.counts.dead)}
            </td>
            <td data-label="Created"><${When} at=${group.createdAt} /></td>
          </tr>`,
        )}
      </tbody>
    </table>
    <nav class="pages" aria-label="Pages of groups">
      ${cursor !== null && html`<a href="#/groups">Newest</a>`}
      ${
        nextCursor !== null &&
        html`<a href=${addressOf(['groups'], { cursor: nextCursor })}>Older</a>`
      }
    </nav>
  `
}

function NoGroups({ cursor }) {
  if (cursor !== null) return html`<${Empty} title="No older ones"><//>`
  const url = new URL('groups', document.baseURI)
  const body = '{"name":"import 7","onFinish":{"endpoint":"reports","when":"all_final"}}'
  return html`<${Empty} title="No group yet">
    <p>A group counts its jobs, and sends one notice when all of them are final:</p>
    <${Foreign} long label="Command" text=${`curl ${url} -H 'content-type: application/json' -d '${body}'`} />
  <//>`
}
