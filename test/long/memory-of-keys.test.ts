// A worker's memory does not grow with the number of fairness keys that have due jobs: a worker in
// front of many keys is compared with one in front of as many jobs of one key.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { expect, test } from 'vitest'
import { ENDPOINT } from '../../bench/load.ts'
import { startPosthorn } from '../../bench/posthorn.ts'
import { type Child, nextMessage } from '../../bench/processes.ts'
import { startSink } from '../../bench/sink-child.ts'
import type { Memory } from '../support/memory-probe.ts'

const DELIVERIES = 20_000
/** Of as many keys, or of one: 100,000 keys are due until the end. */
const JOBS = 100_000 + DELIVERIES
const MOST_RATIO = 1.2
const PROBE = pathToFileURL(join(import.meta.dirname, '../support/memory-probe.ts')).href
/** In a large heap most of the resident memory is garbage: as much as there was time for. */
const NODE_OPTIONS = [
  ...['--max-old-space-size=64', '--max-semi-space-size=2'],
  ...['--expose-gc', '--import', PROBE],
].join(' ')

test('a worker needs as much memory for 100,000 due keys as for one', async () => {
  const one = await memoryWith(() => 'key')
  const many = await memoryWith((index) => `key ${index}`)
  console.log(`one key: ${shown(one)}; ${JOBS} keys: ${shown(many)}`)
  expect(many.inUse / one.inUse).toBeLessThanOrEqual(MOST_RATIO)
  expect(many.mostResident / one.mostResident).toBeLessThanOrEqual(MOST_RATIO)
})

/** Of a worker that has delivered some of these jobs and goes on. */
async function memoryWith(keyOf: (index: number) => string): Promise<Memory> {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-memory-'))
  const storeUrl = `sqlite:${join(folder, 'posthorn.db')}`
  const sink = await startSink()
  const posthorn = await startPosthorn({ storeUrl, folder, env: { NODE_OPTIONS } })
  try {
    await posthorn.register(ENDPOINT, { url: sink.url })
    await posthorn.ask('POST', `/endpoints/${ENDPOINT}/pause`)
    await posthorn.enqueue(JOBS, ENDPOINT, keyOf)
    const arrived = sink.expect(DELIVERIES)
    await posthorn.ask('POST', `/endpoints/${ENDPOINT}/resume`)
    await arrived
    const worker = posthorn.workers[0] as Child
    const memory = nextMessage(worker)
    worker.process.send({})
    return await memory
  } finally {
    await posthorn.stop()
    sink.stop()
    rmSync(folder, { recursive: true, force: true })
  }
}

function shown({ mostResident, inUse }: Memory): string {
  const mib = (bytes: number) => `${Math.round(bytes / 2 ** 20)} MiB`
  return `${mib(mostResident)} resident at most, ${mib(inUse)} in use`
}
