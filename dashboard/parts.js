// The components of every page: states, instants, foreign text, action buttons, dialogs.
import { html } from 'htm/preact'
import { useEffect, useRef, useState } from 'preact/hooks'
import { now, Unreachable } from './api.js'
import { useTick } from './live.js'
import { plain, relative, utc, visible } from './words.js'

/** A shape for each state, so that colour is not the only difference: paths in a box of 16. */
const SHAPES = {
  ring: 'M8 3a5 5 0 1 0 0 10a5 5 0 1 0 0-10z',
  half: 'M8 3a5 5 0 1 0 0 10a5 5 0 1 0 0-10zM8 5v6M10 5.6v4.8M12 7v2',
  check: 'M3 8.5l3.3 3.5L13 4.5',
  cross: 'M4 4l8 8M12 4l-8 8',
  slash: 'M8 3a5 5 0 1 0 0 10a5 5 0 1 0 0-10zM4.5 11.5l7-7',
  bars: 'M5.5 4v8M10.5 4v8',
  clock: 'M8 3a5 5 0 1 0 0 10a5 5 0 1 0 0-10zM8 5.5v3h2.5',
  turn: 'M12.5 8a4.5 4.5 0 1 1-1.5-3.4M11.5 2v3h-3',
}

/** @typedef {[shape: keyof typeof SHAPES, tone: string]} Look */
/** @type {Look} */
const FAILED = ['cross', 'bad']

/** @type {Record<string, Look>} */
const LOOKS = {
  queued: ['ring', 'calm'],
  running: ['half', 'live'],
  succeeded: ['check', 'good'],
  accepted: ['check', 'good'],
  dead: FAILED,
  cancelled: ['slash', 'calm'],
  active: ['check', 'good'],
  live: ['check', 'good'],
  paused: ['bars', 'warn'],
  resting: ['clock', 'warn'],
  throttled: ['clock', 'warn'],
  interrupted: ['turn', 'warn'],
  lost: ['turn', 'warn'],
  failing: FAILED,
  disabled: FAILED,
  deleting: ['slash', 'bad'],
  gone: FAILED,
  open: ['ring', 'live'],
  closed: ['half', 'live'],
  cancelling: ['slash', 'warn'],
  retrying: ['turn', 'warn'],
  failed: FAILED,
}

/**
 * The look of a state or an outcome. An outcome that is not listed is a failure. @param {string}
 * state
 */
export function toneOf(state) {
  return (LOOKS[state] ?? FAILED)[1]
}

/** @param {{state: string, text?: string}} props */
export function State({ state, text = plain(state) }) {
  const [shape, tone] = LOOKS[state] ?? FAILED
  return html`<span class="state ${tone}"
    ><svg viewBox="0 0 16 16" aria-hidden="true"><path d=${SHAPES[shape]} /></svg>${text}</span
  >`
}

/** A relative time. The title has the instant itself. */
export function When({ at }) {
  useTick()
  if (at === null) return html`<span class="faint">–</span>`
  return html`<time datetime=${at} title=${utc(at)}>${relative(Date.parse(at), now())}</time>`
}

/** Text that clients or handlers wrote. */
export function Foreign({ text, label, long = false }) {
  const shown = visible(text)
  if (!long) return html`<span class="foreign" dir="auto">${shown}</span>`
  return html`<pre class="foreign" tabindex="0" role="region" aria-label=${label}>${shown}</pre>`
}

/** @param {{title?: string, children?: unknown}} props */
export function Empty({ title, children }) {
  return html`<div class="empty"><p><strong>${title}</strong></p>${children}</div>`
}

/** Shown until the data has arrived. */
export function Waiting({ error, what }) {
  if (error === null) return html`<p class="faint" role="status">Reading ${what} …</p>`
  if (error instanceof Unreachable) return html`<p class="faint">Nothing was read yet.</p>`
  return html`<${Empty} title=${`${what} cannot be shown`}><p>${error.message}</p><//>`
}

/** @typedef {{text: string, isError: boolean, id: number}} Message */
/** @type {Message[]} */
let messages = []
/** @type {Set<() => void>} */
const listeners = new Set()
const MAX_MESSAGES = 3
const SHOWN_MS = 8_000

/**
 * Shows a message about a command: its result, or why it failed. Screen readers announce it. @param
 * {string} text
 */
export function showMessage(text, isError = false) {
  const message = { text, isError, id: performance.now() }
  messages = [...messages, message].slice(-MAX_MESSAGES)
  for (const listener of listeners) listener()
  // An error stays until the user closes it.
  if (!isError) setTimeout(hideMessage, SHOWN_MS, message)
}

/** @param {Message} message */
function hideMessage(message) {
  messages = messages.filter((one) => one !== message)
  for (const listener of listeners) listener()
}

/** The errors of earlier commands disappear when a new command begins. */
function hideMessages() {
  messages = []
  for (const listener of listeners) listener()
}

export function Messages() {
  const [, setCount] = useState(0)
  useEffect(() => {
    const draw = () => setCount((count) => count + 1)
    listeners.add(draw)
    return () => {
      listeners.delete(draw)
    }
  }, [])
  return html`<div class="messages" role="status" aria-live="polite">
    ${messages.map(
      (one) => html`<p key=${one.id} class=${one.isError ? 'bad' : ''}>
        <${Foreign} text=${one.text} />
        <button type="button" class="quiet" onClick=${() => hideMessage(one)}>Close</button>
      </p>`,
    )}
  </div>`
}

/**
 * A button that runs a command, one call at a time.
 *
 * @param {object} props
 * @param {unknown} props.label
 * @param {() => Promise<string | undefined | void>} props.act returns the message to show
 * @param {() => void} [props.done] called after it, whether it succeeded or failed
 * @param {string} [props.tone]
 * @param {boolean} [props.disabled]
 * @param {string} [props.title]
 */
export function Action({ label, act, done, tone = '', disabled = false, title }) {
  const [isBusy, setBusy] = useState(false)
  async function run() {
    setBusy(true)
    hideMessages()
    try {
      const text = await act()
      if (text) showMessage(text)
    } catch (error) {
      showMessage(/** @type {Error} */ (error).message, true)
    } finally {
      setBusy(false)
      done?.()
    }
  }
  return html`<button
    type="button"
    class=${tone}
    title=${title}
    disabled=${disabled || isBusy}
    aria-busy=${isBusy}
    onClick=${run}
  >
    ${label}
  </button>`
}

/**
 * A dialog shows the messages, too, because the rest of the page is inert while it is open.
 *
 * @param {{title?: string, close: () => void, children?: unknown}} props
 */
export function Dialog({ title, close, children }) {
  const element = useRef(/** @type {HTMLDialogElement | null} */ (null))
  useEffect(() => {
    const before = document.activeElement
    element.current?.showModal()
    return () => {
      if (before instanceof HTMLElement) before.focus()
    }
  }, [])
  return html`<dialog ref=${element} aria-labelledby="dialog-title" onClose=${close}>
    <h2 id="dialog-title">${title}</h2>
    ${children}
    <${Messages} />
  </dialog>`
}

/** @param {string} text @param {string} what */
export async function copy(text, what) {
  if (navigator.clipboard !== undefined) await navigator.clipboard.writeText(text)
  else copyTheOldWay(text)
  return `${what} copied.`
}

/**
 * A page that was loaded over http from another machine has no access to the clipboard. @param
 * {string} text
 */
function copyTheOldWay(text) {
  const area = document.createElement('textarea')
  area.value = text
  const home = document.querySelector('dialog[open]') ?? document.body
  home.append(area)
  area.select()
  const isCopied = document.execCommand('copy')
  area.remove()
  if (!isCopied) throw new Error('the browser did not allow this page to copy')
}

/** A list of terms and their values. @param {[term: string, value: unknown][]} pairs */
export function facts(pairs) {
  return html`<dl class="facts">
    ${pairs.map(([term, value]) => html`<div key=${term}><dt>${term}</dt><dd>${value}</dd></div>`)}
  </dl>`
}
