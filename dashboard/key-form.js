// Asks for the API key. It stays in this tab (sessionStorage) and is sent only to this API.
import { html } from 'htm/preact'
import { useState } from 'preact/hooks'
import { ask, keepKey } from './api.js'

/** @param {{why?: string}} props */
export function KeyForm({ why }) {
  const [problem, setProblem] = useState(why)
  async function submit(event) {
    event.preventDefault()
    const key = new FormData(event.target).get('key')?.toString().trim() ?? ''
    try {
      await ask('GET', 'jobs?limit=1', undefined, {
        headers: { authorization: `Bearer ${key}` },
      })
      keepKey(key)
    } catch (error) {
      setProblem(/** @type {Error} */ (error).message)
    }
  }
  return html`<form class="key card" onSubmit=${submit}>
    <h1>API key</h1>
    <p>This API needs a key. One with the scope admin sees all, one with enqueue the jobs.</p>
    <label>Key <input name="key" type="password" autocomplete="off" required autofocus /></label>
    <p role="alert" class="bad">${problem}</p>
    <button type="submit" class="main">Open the dashboard</button>
    <p class="faint">It is kept until this tab is closed, and sent to this API only.</p>
  </form>`
}
