// Bodies that are as expensive to read as their size allows, for clients with a key.

const fill = (unit: string, bytes: number) => unit.repeat(Math.floor(bytes / unit.length))
const keys = (bytes: number) =>
  Array.from({ length: bytes / 12 }, (_, i) => `"${i.toString(36).padStart(7, '_')}":0`).join(',')
const job = (payload: string, more = '') => `{"endpoint":"work","payload":${payload}${more}}`

/** Bodies for POST /jobs, each almost `bytes` long. */
export const JOB_BODIES: Record<string, (bytes: number) => string> = {
  'a payload of numbers': (bytes) => job(`[${fill('0,', bytes)}0]`),
  'a payload of empty lists': (bytes) => job(`[${fill('[],', bytes)}0]`),
  'a payload of objects': (bytes) => job(`[${fill('{"a":{}},', bytes)}0]`),
  'a payload of keys': (bytes) => job(`{${keys(bytes)}}`),
  'a payload as deep as can be': (bytes) =>
    job(`[${fill(`${'['.repeat(61)}${']'.repeat(61)},`, bytes)}0]`),
  'one long string': (bytes) => job(`"${fill('x', bytes)}"`),
  'one string of escapes': (bytes) => job(`"${fill('\\u0041', bytes)}"`),
  'one string of wide characters': (bytes) => job(`"${fill('🐎', bytes / 2)}"`),
  'one long number': (bytes) => job(fill('1', bytes)),
  'unknown keys': (bytes) => `{${keys(bytes)}}`,
  'tags of a wrong type': (bytes) => job('1', `,"tags":[${fill('0,', bytes)}0]`),
  'many tags': (bytes) => job('1', `,"tags":[${fill('"a",', bytes)}0]`),
  'much metadata': (bytes) => job('1', `,"metadata":{${keys(bytes)}}`),
  'many headers': (bytes) => job('1', `,"headers":{${keys(bytes)}}`),
  'one long tag': (bytes) => job('1', `,"tags":["${fill('\\u0041', bytes)}"]`),
  'one long key': (bytes) => job('1', `,"${fill('\\u0041', bytes)}":1`),
  'spaces between': (bytes) => job('1', fill(' ', bytes)),
  'brackets and nothing else': (bytes) => fill('[]', bytes),
}

/** Bodies for POST /jobs/batch. */
export const BATCH_BODIES: Record<string, (bytes: number) => string> = {
  'good jobs': (bytes) => batch(1_000, () => job(`"${fill('x', bytes / 1_000 - 100)}"`)),
  'jobs with keys': (bytes) =>
    batch(1_000, (i) =>
      job(`"${fill('x', bytes / 1_000 - 100)}"`, `,"idempotencyKey":"${bytes}-${i}"`),
    ),
  'jobs with as many wrong values as can be': () =>
    batch(1_000, () => job('1', `,"tags":[${fill('0,', 900)}0]`)),
  'jobs with as many wrong keys as can be': () => batch(1_000, () => `{${keys(490 * 12)}}`),
  'jobs with large envelopes': (bytes) =>
    batch(bytes / 1_000_000, () => job('1', `,"tags":["${fill('\\u0041', 990_000)}"]`)),
  'jobs with as many headers as can be': (bytes) => {
    const headers = Array.from({ length: 20 }, (_, i) => `"x-${i}":"${fill('y', 4_000)}"`).join(',')
    return batch(bytes / 81_000, () => job('1', `,"headers":{${headers}}`))
  },
  'jobs with as many dependencies as can be': () =>
    batch(1_000, (i) => {
      const earlier = Array.from({ length: Math.min(50, i) }, (_, k) => `"#${i - 1 - k}"`)
      return job('1', `,"dependsOn":[${earlier.join(',')}]`)
    }),
  'more jobs than can be': (bytes) => `{"jobs":[${fill('{},', bytes)}0]}`,
  'no jobs at all': (bytes) => `{"jobs":[${fill('0,', bytes)}0]}`,
}

function batch(count: number, of: (i: number) => string): string {
  return `{"jobs":[${Array.from({ length: count }, (_, i) => of(i)).join(',')}]}`
}
