// posthorn doctor: checks what Posthorn depends on, and says what to do about it.
import { readConfig } from '../../src/config.ts'
import type { Check, StoreReport, VerbLatency, Verdict } from '../../src/store/doctor-report.ts'
import { examineStore } from '../../src/store/open-store.ts'
import { VERSION } from '../../src/version.ts'
import { action, type Command } from '../command.ts'
import { loadEnvFile } from '../env-file.ts'
import { CommandFailed, EXIT } from '../exit.ts'
import { printError, printJson, printLine, type Style, table } from '../output.ts'

const store = action({
  summary: 'Check whether the store is fit for Posthorn',
  arguments: [],
  options: { json: { type: 'boolean', help: 'print the whole report as JSON' } },
  details: `The store is that of STORE_URL, from the environment or .env.
Posthorn may run meanwhile. On MongoDB it checks the server, the privileges of the user,
every index and the clock. It tries every operation on collections of its own, explains
each command, and drops these collections at the end, also after Ctrl-C. On SQLite it
reads the file: permissions, free space, schema, journal mode, damage.
The report has no passwords and no jobs.`,
  examples: ['STORE_URL=sqlite:./data/posthorn.db posthorn doctor store'],
  async run({ values }) {
    loadEnvFile()
    const report = await examineStore(readConfig(process.env).STORE_URL, untilInterrupted())
    const failures = report.checks.filter(({ verdict }) => verdict === 'failed')
    if (values.json) printJson({ posthorn: VERSION, ...report })
    else print(report, failures)
    return failures.length === 0 ? EXIT.done : EXIT.failed
  },
})

export const command: Command = { verbs: { store } }

/** Aborted by the first signal. A second one ends the process at once. */
function untilInterrupted(): AbortSignal {
  const controller = new AbortController()
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
    process.on(signal, () => {
      if (controller.signal.aborted) process.exit(EXIT.failed)
      printError('Removing the collections of the doctor. Press Ctrl-C again to leave them.')
      controller.abort(new CommandFailed('The check was interrupted; its collections are removed.'))
    })
  }
  return controller.signal
}

function print({ engine, checks, latencies }: StoreReport, failures: Check[]): void {
  printLine(`${engine}\n`)
  printLine(
    table(checks, [
      {
        title: 'verdict',
        value: ({ verdict }) => verdict,
        style: ({ verdict }) => STYLES[verdict],
      },
      { title: 'check', value: ({ name }) => name },
      { title: 'found', value: ({ found }) => found },
    ]),
  )
  const advised = checks.filter(({ advice }) => advice !== null)
  if (advised.length > 0) {
    printLine('\nWhat to do')
    for (const { name, advice } of advised) printLine(`  ${name}: ${advice}`)
  }
  if (latencies.length > 0) printLine(`\n${table(latencies, LATENCY_COLUMNS)}`)
  const names = failures.map(({ name }) => name).join(', ')
  printLine(failures.length === 0 ? '\nNo check failed.' : `\nFailed: ${names}.`)
}

const STYLES: Record<Verdict, Style | null> = {
  ok: 'green',
  warning: 'yellow',
  failed: 'red',
  unknown: 'dim',
}

const LATENCY_COLUMNS = [
  { title: 'verb', value: ({ verb }: VerbLatency) => verb },
  { title: 'calls', value: ({ calls }: VerbLatency) => calls },
  { title: 'p50 ms', value: ({ p50Ms }: VerbLatency) => p50Ms },
  { title: 'p95 ms', value: ({ p95Ms }: VerbLatency) => p95Ms },
  { title: 'max ms', value: ({ maxMs }: VerbLatency) => maxMs },
]
