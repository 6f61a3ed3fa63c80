// The limits of the cost of a job at saturation, counted on real processes, and never timed. The
// tests in test/store/ count the cost of single calls of a store.
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { ENDPOINT } from '../../bench/load.ts'
import { type Posthorn, startPosthorn } from '../../bench/posthorn.ts'
import { type Child, nextMessage, startChild } from '../../bench/processes.ts'
import { type Sink, startSink } from '../../bench/sink-child.ts'

const JOBS = 2_000
/** Counts are the same however long a busy machine takes. */
const DEADLINE_MS = 60_000
/** The promise of docs/benchmarks.md, row h, which cold processes keep, too. */
const MOST_COMMANDS_PER_JOB = 0.2
/** While many jobs wait, a claim returns ten or more, even though slots become free one by one. */
const MOST_CLAIMS_PER_JOB = 0.1

let folder: string
let sink: Sink
let posthorn: Posthorn

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), 'posthorn-counts-'))
  sink = await startSink()
  const storeUrl = `sqlite:${join(folder, 'posthorn.db')}`
  posthorn = await startPosthorn({ storeUrl, folder, env: { WORKER_PORT: '0' } })
  await posthorn.register(ENDPOINT, { url: sink.url })
})
afterEach(async () => {
  await posthorn.stop()
  sink.stop()
  rmSync(folder, { recursive: true, force: true })
})

it(
  'a job costs few store commands from its POST to its end, and arrives once',
  async () => {
    const arrived = sink.expect(JOBS)
    const poster = startChild('poster.ts', [posthorn.apiUrl, String(JOBS)])
    expect(await nextMessage(poster)).toMatchObject({ refused: 0 })
    expect(await arrived).toMatchObject({ distinct: JOBS, doubles: 0 })
    await posthorn.untilDone()

    const worker = await metricsAt(urlOf(posthorn.workers[0] as Child))
    const api = await metricsAt(posthorn.apiUrl)

    const commands = (text: string) => figureOf(text, 'posthorn_store_commands_total')
    expect(figureOf(worker, 'posthorn_batch_size_sum', 'claim')).toBe(JOBS)
    expect(figureOf(worker, 'posthorn_batch_size_count', 'claim') / JOBS).toBeLessThan(
      MOST_CLAIMS_PER_JOB,
    )
    expect((commands(worker) + commands(api)) / JOBS).toBeLessThan(MOST_COMMANDS_PER_JOB)
  },
  DEADLINE_MS,
)

/** The URL of a worker's port, from its log. */
function urlOf({ logPath }: Child): string {
  const lines = readFileSync(logPath, 'utf8').split('\n')
  return JSON.parse(lines.find((line) => line.includes('"worker.started"')) as string).url
}

async function metricsAt(url: string): Promise<string> {
  return (await fetch(`${url}/metrics`)).text()
}

function figureOf(metrics: string, name: string, kind = ''): number {
  const line = metrics
    .split('\n')
    .find((one) => one.startsWith(`${name}{`) && one.includes(`"${kind}`))
  if (line === undefined) throw new Error(`the metrics lack ${name} ${kind}`)
  return Number(line.split(' ').at(-1))
}
