// npm run bench: runs the rows and writes the results.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { cpus, tmpdir, totalmem } from 'node:os'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { measured, shown } from './compare.ts'
import { PAYLOAD, PAYLOAD_BYTES, USUAL_BYTES } from './load.ts'
import { endAll } from './processes.ts'
import { type Bench, isMet, type Result, type StoreEngine } from './row.ts'
import { ROWS } from './rows.ts'
import { stopStores } from './stores.ts'

const USAGE = `npm run bench -- [row]... [--store sqlite|mongo] [--pairs n] [--scale x]
                    [--json file]

${ROWS.map(({ name, title }) => `  ${name.padEnd(12)} ${title}`).join('\n')}

  --store    one store only, where a row has both
  --pairs    of each comparison, 6 by default; the first is dropped
  --scale    of all amounts, 1 by default: 0.05 tries a row in seconds
  --json     adds what was measured to this file, for bench/report.ts

PAYLOAD_BYTES in the environment: the size of a job's payload, ${USUAL_BYTES} without it`

/** The content of a --json file. */
export interface RunReport {
  date: string
  machine: string
  command: string
  results: Result[]
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: {
      store: { type: 'string' },
      pairs: { type: 'string', default: '6' },
      scale: { type: 'string', default: '1' },
      json: { type: 'string' },
      help: { type: 'boolean', default: false },
    },
  })
  const rows = ROWS.filter(({ name }) => positionals.length === 0 || positionals.includes(name))
  const unknown = positionals.filter((word) => !ROWS.some(({ name }) => name === word))
  const stores = (['sqlite', 'mongo'] as const).filter(
    (engine) => values.store === undefined || values.store === engine,
  ) satisfies StoreEngine[]
  const [pairs, scale] = [Number(values.pairs), Number(values.scale)]
  const isPayloadWrong = PAYLOAD.length !== PAYLOAD_BYTES
  const isWrong =
    unknown.length > 0 || stores.length === 0 || !(pairs >= 2) || !(scale > 0) || isPayloadWrong
  if (values.help || isWrong) {
    console.log(USAGE)
    return values.help ? 0 : 2
  }
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-bench-'))
  process.once('exit', () => {
    endAll()
    rmSync(folder, { recursive: true, force: true, maxRetries: 5 })
  })
  for (const signal of ['SIGINT', 'SIGTERM'] as const) {
    process.once(signal, () => void stopStores().then(() => process.exit(1)))
  }
  const bench: Bench = { pairs, scale, folder, stores, say: (line) => console.error(line) }
  const results: Result[] = []
  let isWhole = true
  try {
    for (const { name, title, play } of rows) {
      console.error(`${name}: ${title}`)
      try {
        const played = (await play(bench)).map(withPayload)
        for (const result of played) print(result)
        results.push(...played)
      } catch (error) {
        // For example a missing server. The other rows can run nevertheless.
        isWhole = false
        console.error(`✗ ${name}: ${error instanceof Error ? error.message : error}`)
      }
    }
  } finally {
    await stopStores()
  }
  if (values.json) {
    const size = PAYLOAD_BYTES === USUAL_BYTES ? '' : `PAYLOAD_BYTES=${PAYLOAD_BYTES} `
    const words = process.argv.slice(2).join(' ')
    const report: RunReport = {
      ...{ date: new Date().toISOString().slice(0, 10), machine: machine() },
      ...{ command: `${size}npm run bench -- ${words}`.trim(), results },
    }
    writeFileSync(values.json, `${JSON.stringify(report, null, 2)}\n`)
  }
  return isWhole && results.every(({ delivery }) => isExact(delivery)) ? 0 : 1
}

/** Another size of the payload is another line of the table. */
function withPayload(result: Result): Result {
  if (PAYLOAD_BYTES === USUAL_BYTES) return result
  return { ...result, what: `${result.what}, ${PAYLOAD_BYTES} bytes each` }
}

/** Checks that every accepted job arrived exactly once. */
function isExact(delivery: Result['delivery']): boolean {
  if (delivery === null) return true
  const { accepted, delivered, doubles } = delivery
  return delivered === accepted && doubles === 0
}

function print(result: Result): void {
  const { row, what, against, ratio, better, mustReach, aim, sides, delivery, notes } = result
  const { ours, theirs, unit } = sides
  const { of = 'ratio' } = result
  const text = (value: number) => measured(value, { of, unit })
  const comparison = { ratio: ` ÷ ${against}`, difference: ` − ${against}`, figure: '' }[of]
  const bounds =
    mustReach === null
      ? ''
      : ` (${better === 'more' ? 'at least' : 'at most'} ${mustReach}` +
        `${aim === null ? '' : `, aim ${aim}`})`
  const { median, min, max } = ratio
  console.log(
    `${isMet(result) ? '✓' : '✗'} ${row} ${what}${comparison}: ` +
      `${text(median)} (${shown(min)}–${shown(max)})${bounds}`,
  )
  for (const side of of === 'figure' ? [ours] : [ours, theirs]) {
    const cpu = Object.entries(side.cpuUs).map(([name, us]) => `${name} ${shown(us)} µs`)
    const cpuText = cpu.length === 0 ? '' : `; CPU per job: ${cpu.join(', ')}`
    console.log(`    ${side.name}: ${shown(side.value.median)} ${unit}${cpuText}`)
  }
  if (delivery !== null) {
    const { accepted, delivered, doubles } = delivery
    console.log(`    ${accepted} accepted, ${delivered} delivered, ${doubles} twice`)
  }
  for (const note of notes) console.log(`    ${note}`)
}

function machine(): string {
  const [{ model } = { model: 'unknown' }] = cpus()
  const memoryGb = Math.round(totalmem() / 2 ** 30)
  return `${cpus().length} × ${model}, ${memoryGb} GB, Node ${process.versions.node}`
}

// A row that failed may have left child processes, which end here.
process.exit(await main())
