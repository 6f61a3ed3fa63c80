// Runs a round, or tests of the model, in a copy of the project, and returns what failed.
import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Engine } from './history.ts'
import type { Stage } from './mutant-patches.ts'
import type { RunReport } from './run.ts'

/**
 * With a bug, the slowest round takes over three minutes, and it may wait for something that never
 * happens.
 */
const DEADLINE_MS = 600_000
/** How much of the output is kept: enough to find the cause. */
const KEPT_OUTPUT_CHARACTERS = 4_000

export interface Played {
  /** null: the process was stopped at the deadline. */
  exitCode: number | null
  failures: Failure[]
  /** The end of the output. */
  output: string
}

interface Failure {
  /** null: the failure is a message of the round, or a test. */
  invariant: string | null
  message: string
}

export async function playIn(
  folder: string,
  stage: Stage,
  store: Engine,
  seed: number,
): Promise<Played> {
  const answers = join(folder, 'played.json')
  rmSync(answers, { force: true })
  const words =
    stage.kind === 'round'
      ? [
          ...['test/faults/run.ts', '--short', '--round', stage.round, '--store', store],
          ...['--seed', String(seed), '--json', answers],
        ]
      : [
          ...['node_modules/vitest/vitest.mjs', 'run', stage.file, '-t', stage.tests],
          ...['--reporter=json', '--outputFile', answers],
        ]
  const { exitCode, output } = await runToEnd(folder, words)
  const text = existsSync(answers) ? readFileSync(answers, 'utf8') : null
  const readFailures = stage.kind === 'round' ? failuresOfRun : failuresOfTests
  return { exitCode, output, failures: text === null ? [] : readFailures(JSON.parse(text)) }
}

function failuresOfRun({ reports }: RunReport): Failure[] {
  return reports.flatMap(({ violations, complaints }): Failure[] => [
    ...violations,
    ...complaints.map((message) => ({ invariant: null, message })),
  ])
}

interface TestsReport {
  testResults: { assertionResults: { status: string; fullName: string }[] }[]
}

function failuresOfTests({ testResults }: TestsReport): Failure[] {
  return testResults
    .flatMap(({ assertionResults }) => assertionResults)
    .filter(({ status }) => status === 'failed')
    .map(({ fullName }) => ({ invariant: null, message: `the test: ${fullName}` }))
}

async function runToEnd(folder: string, words: string[]) {
  const child = spawn(process.execPath, words, {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'pipe'],
    // The process has a group of its own, so that all its descendants can be stopped with it.
    detached: true,
  })
  let output = ''
  const keep = (chunk: Buffer) => {
    output = (output + chunk.toString()).slice(-KEPT_OUTPUT_CHARACTERS)
  }
  child.stdout.on('data', keep)
  child.stderr.on('data', keep)
  const timer = setTimeout(() => endGroup(child), DEADLINE_MS)
  const [exitCode] = (await once(child, 'close')) as [number | null]
  clearTimeout(timer)
  return { exitCode, output }
}

function endGroup({ pid }: ChildProcess): void {
  if (pid !== undefined) process.kill(-pid, 'SIGKILL')
}
