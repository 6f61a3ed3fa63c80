// Formats figures, instants and foreign text for people. It creates no elements.

const UNITS_MS = { ms: 1, s: 1_000, m: 60_000, h: 3_600_000, d: 86_400_000 }

/** @param {string} text a duration of the API, like `1h30m`; in ms */
export function durationMs(text) {
  let sum = 0
  for (const [, count, unit] of text.matchAll(/(\d+)(ms|s|m|h|d)/g)) {
    sum += Number(count) * UNITS_MS[/** @type {keyof typeof UNITS_MS} */ (unit)]
  }
  return sum
}

/** @param {number} ms as `340 ms`, `12 s`, `14 min`, `3 h 20 min`, `5 d` */
export function span(ms) {
  const round = Math.max(0, Math.round(ms))
  if (round < 1_000) return `${round} ms`
  if (round < 10_000) return `${(round / 1_000).toFixed(1).replace(/\.0$/, '')} s`
  if (round < 60_000) return `${Math.floor(round / 1_000)} s`
  const minutes = Math.floor(round / 60_000)
  if (minutes < 60) return `${minutes} min`
  const hours = Math.floor(minutes / 60)
  if (hours < 48) return minutes % 60 === 0 ? `${hours} h` : `${hours} h ${minutes % 60} min`
  return `${Math.floor(hours / 24)} d`
}

/** @param {number} atMs @param {number} nowMs */
export function relative(atMs, nowMs) {
  const ms = nowMs - atMs
  if (Math.abs(ms) < 1_000) return 'now'
  const whole = Math.abs(ms) < 10_000 ? Math.floor(Math.abs(ms) / 1_000) * 1_000 : Math.abs(ms)
  return ms > 0 ? `${span(whole)} ago` : `in ${span(whole)}`
}

/** @param {number | string} instant as `2026-11-24 08:30:00 UTC` */
export function utc(instant) {
  return `${new Date(instant).toISOString().slice(0, 19).replace('T', ' ')} UTC`
}

/**
 * Adds the relative time to each instant in a sentence of the API. @param {string} text @param
 * {number} nowMs
 */
export function withInstants(text, nowMs) {
  return text.replace(/\d{4}-\d\d-\d\dT[\d:.]+Z/g, (instant) => {
    return `${instant.slice(11, 19)} UTC (${relative(Date.parse(instant), nowMs)})`
  })
}

/** @param {string} instant @param {string} [zone] absent: the reader's */
export function zoned(instant, zone) {
  return new Intl.DateTimeFormat('en-GB', {
    weekday: 'short',
    day: 'numeric',
    month: 'short',
    hour: '2-digit',
    minute: '2-digit',
    second: '2-digit',
    ...(zone === undefined ? {} : { timeZone: zone }),
  }).format(new Date(instant))
}

export const READER_ZONE = new Intl.DateTimeFormat().resolvedOptions().timeZone

/** @param {number} count @param {boolean} [isMore] the true one is larger */
export function figure(count, isMore = false) {
  return `${count.toLocaleString('en-GB')}${isMore && count >= 10_000 ? '+' : ''}`
}

/** @param {number} count @param {string} one @param {string} [many] */
export function counted(count, one, many = `${one}s`) {
  return `${figure(count)} ${count === 1 ? one : many}`
}

/** @param {number} count */
export function bytes(count) {
  if (count < 1_024) return `${count} B`
  if (count < 1_048_576) return `${(count / 1_024).toFixed(1)} KiB`
  return `${(count / 1_048_576).toFixed(1)} MiB`
}

/** @param {string} word `http_error` as `http error` */
export function plain(word) {
  return word.replaceAll('_', ' ')
}

/**
 * Which other jobs a queued job waits for; null: none.
 *
 * @param {{state: string, dueAt: string | null, dependsOn: string[]}} job
 */
export function waitText({ state, dueAt, dependsOn }) {
  if (state !== 'queued' || dueAt !== null) return null
  if (dependsOn.length > 0) return `depends on ${counted(dependsOn.length, 'job')}`
  return 'waits for earlier jobs of its ordering key'
}

/**
 * Makes characters of foreign text visible that are invisible or would reverse the text beside
 * them.
 *
 * @param {string} text
 */
export function visible(text) {
  return (
    text
      .replaceAll('\r\n', '\n')
      // biome-ignore lint/suspicious/noControlCharactersInRegex: those are what is looked for
      .replace(/[\0-\x08\x0b-\x1f]/g, (one) => String.fromCharCode(0x2400 + one.charCodeAt(0)))
      .replace(/[\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g, codePoint)
  )
}

/** @param {string} one */
function codePoint(one) {
  return `⟨U+${one.charCodeAt(0).toString(16).toUpperCase().padStart(4, '0')}⟩`
}

/**
 * Formats JSON with line breaks. JSON.parse is not used, because it would change large numbers and
 * drop duplicate keys: the page must show what was sent.
 *
 * @param {string} text valid JSON
 */
export function laidOut(text) {
  let out = ''
  let depth = 0
  const line = () => `\n${'  '.repeat(depth)}`
  const token = /"(?:[^"\\]|\\.)*"|[{}[\],:]|[^\s{}[\],:"]+/gs
  const tokens = text.match(token) ?? []
  for (const [i, one] of tokens.entries()) {
    const isOpening = one === '{' || one === '['
    const isClosing = one === '}' || one === ']'
    const isEmpty = isClosing && (tokens[i - 1] === '{' || tokens[i - 1] === '[')
    if (isClosing) depth -= 1
    if (isClosing && !isEmpty) out += line()
    out += one === ':' ? ': ' : one
    if (isOpening) depth += 1
    const next = tokens[i + 1]
    if (one === ',' || (isOpening && next !== '}' && next !== ']')) out += line()
  }
  return out
}
