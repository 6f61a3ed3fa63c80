// Changes a queued job: its due time, its priority and, if no attempt was sent, its payload.
import { html } from 'htm/preact'
import { useState } from 'preact/hooks'
import { request } from './api.js'
import { jobPath, readPayload } from './job-reads.js'
import { instantOf, localOf } from './jobs.js'
import { useLive } from './live.js'
import { Dialog, showMessage } from './parts.js'

const PRIORITIES = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]

/** @param {{job?: any, refresh?: any, close?: any}} props */
export function EditDialog({ job, refresh, close }) {
  // The fields keep the values of the moment when the dialog was opened; the version guards the
  // write.
  const [before] = useState(job)
  const [problem, setProblem] = useState('')
  const isUnsent = before.attemptCount === 0
  const payload = useLive(
    async (_, signal) => (isUnsent ? readPayload(before.id, signal) : ''),
    null,
    [before.id],
  )

  async function submit(event) {
    event.preventDefault()
    const form = new FormData(event.target)
    const changes = changesIn(form, before, payload.data)
    if (typeof changes === 'string') return setProblem(changes)
    if (changes.length === 0) return close()
    try {
      const headers = { 'if-match': `"${before.version}"` }
      await request('PATCH', jobPath(before.id), { body: `{${changes.join(',')}}`, headers })
      showMessage('The job is changed.')
      refresh()
      close()
    } catch (error) {
      setProblem(/** @type {Error} */ (error).message)
    }
  }

  return html`<${Dialog} title="Edit the job" close=${close}>
    <form onSubmit=${submit}>
      <label>
        Due, in your time zone
        <input name="runAt" type="datetime-local" step="1" value=${localOf(before.runAt)} />
      </label>
      <label>
        Priority, higher first
        <select name="priority">
          ${PRIORITIES.map(
            (one) => html`<option value=${one} selected=${one === before.priority}>${one}</option>`,
          )}
        </select>
      </label>
      ${
        isUnsent
          ? html`<label>
            Payload, sent as it stands here
            <textarea name="payload" rows="10" spellcheck="false" value=${payload.data ?? ''}
              disabled=${payload.data === null}></textarea>
          </label>`
          : html`<p class="faint">It was sent already: a handler may have seen its payload.</p>`
      }
      <p role="alert" class="bad">${problem}</p>
      <div class="actions">
        <button type="submit" class="main">Save</button>
        <button type="button" onClick=${close}>Cancel</button>
      </div>
    </form>
  <//>`
}

/**
 * The changed fields as JSON text, or what is wrong with them.
 *
 * @param {FormData} form @param {any} before @param {string | null} payload
 */
function changesIn(form, before, payload) {
  const changes = []
  const runAt = form.get('runAt')?.toString() ?? ''
  if (runAt === '') return 'Enter when the job is due.'
  if (runAt.padEnd(19, ':00') !== localOf(before.runAt))
    changes.push(`"runAt":"${instantOf(runAt)}"`)
  const priority = Number(form.get('priority'))
  if (priority !== before.priority) changes.push(`"priority":${priority}`)
  // A form converts line ends to CRLF; the field has LF.
  const text = form.get('payload')?.toString().replaceAll('\r\n', '\n') ?? null
  if (text === null || payload === null || text === payload.replaceAll('\r\n', '\n')) return changes
  try {
    JSON.parse(text)
  } catch (error) {
    return `The payload is not JSON: ${/** @type {Error} */ (error).message}`
  }
  return [...changes, `"payload":${text}`]
}
