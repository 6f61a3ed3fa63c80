// The option --timeout of the commands that wait for the end of a job.
import type { Option } from './command.ts'
import { UsageError } from './exit.ts'
import { durationMs } from './input.ts'

const DEFAULT_TIMEOUT = '10m'
/** The longest time that setTimeout can count. */
const MAX_TIMEOUT_MS = 24 * 86_400_000

export const WAIT_OPTIONS = {
  timeout: {
    type: 'string',
    value: 'DURATION',
    help: `wait at most this long, then exit with 4; default ${DEFAULT_TIMEOUT}`,
  },
} as const satisfies Record<string, Option>

export function waitOptions(given: string | undefined): { timeoutMs: number } {
  const timeoutMs = durationMs('--timeout', given ?? DEFAULT_TIMEOUT)
  if (timeoutMs <= MAX_TIMEOUT_MS) return { timeoutMs }
  throw new UsageError(`--timeout is "${given}"; expected no more than 24d.`)
}
