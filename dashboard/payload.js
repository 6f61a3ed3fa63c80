// The payload and the result of a job: formatted for reading, and copied byte for byte.
import { html } from 'htm/preact'
import { useState } from 'preact/hooks'
import { readPayload } from './job-reads.js'
import { useLive } from './live.js'
import { Action, copy, Foreign } from './parts.js'
import { bytes, laidOut } from './words.js'

/** A payload can have megabytes; formatting and showing more than this would block the page. */
const MAX_LAID_OUT = 65_536

/** @param {{job?: any}} props */
export function Payload({ job }) {
  const [isAsSent, setAsSent] = useState(false)
  // Only an edit changes the payload, and every edit raises the version.
  const on = job.attemptCount === 0 ? [job.id, job.version] : [job.id]
  const { data, error } = useLive((_, signal) => readPayload(job.id, signal), null, on)
  return html`<section aria-labelledby="payload">
    <div class="head">
      <h2 id="payload">Payload <span class="faint">${bytes(job.payloadBytes)}</span></h2>
      <${Action} label="Copy payload" act=${async () => copy(await readPayload(job.id), 'The payload')} />
      <button type="button" aria-pressed=${isAsSent} onClick=${() => setAsSent(!isAsSent)}>As sent</button>
    </div>
    ${error !== null && html`<p>${error.message}</p>`}
    ${data !== null && html`<${Shown} text=${data} isAsSent=${isAsSent} label="Payload as JSON" />`}
  </section>`
}

function Shown({ text, isAsSent, label }) {
  const isLarge = text.length > MAX_LAID_OUT
  const shown = isLarge ? text.slice(0, MAX_LAID_OUT) : isAsSent ? text : laidOut(text)
  return html`
    ${isLarge && html`<p class="faint">The first 64 Ki characters, as sent; copying takes all.</p>`}
    <${Foreign} long text=${shown} label=${label} />
  `
}

/** @param {{job?: any}} props */
export function Result({ job }) {
  const { result, resultTruncated, state } = job
  if (state !== 'succeeded') return null
  const text = JSON.stringify(result)
  return html`<section aria-labelledby="result">
    <div class="head">
      <h2 id="result">Result</h2>
      ${!resultTruncated && html`<${Action} label="Copy result" act=${() => copy(text, 'The result')} />`}
    </div>
    ${
      resultTruncated
        ? html`<p class="faint">It was longer than 64 KiB and is not kept.</p>`
        : html`<${Shown} text=${text} isAsSent=${false} label="Result as JSON" />`
    }
  </section>`
}
