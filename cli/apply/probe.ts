// Finds the changes that the server would refuse, before any is made: sends each with a condition
// that cannot be met. The server checks the condition last, so it reports every other fault, and
// writes nothing.
import { PosthornError } from '../../src/client/client.ts'
import { errorInCommandWords } from '../command-words.ts'
import { cleaned } from '../terminal-text.ts'
import type { Step } from './plan.ts'

/** The largest version that an ETag can name; no record reaches it. */
export const NO_VERSION = 999_999_999_999_999

/** A sentence for each step that the server would refuse. Any other failure is thrown. */
export async function refusalsOf(
  steps: readonly Step[],
  put: (step: Step, options: { ifVersion: number }) => Promise<unknown>,
): Promise<string[]> {
  const refusals: string[] = []
  for (const step of steps) {
    try {
      await put(step, { ifVersion: NO_VERSION })
    } catch (error) {
      if (!(error instanceof PosthornError) || !isAboutTheStep(error)) throw error
      if (error.code === 'precondition_failed') continue
      refusals.push(`${step.kind} ${step.name}: ${cleaned(errorInCommandWords(error).detail)}`)
    }
  }
  return refusals
}

/** Other errors would occur with any request: no key, a proxy, a busy store. */
function isAboutTheStep({ code }: PosthornError): boolean {
  return ABOUT_THE_STEP.has(code)
}
const ABOUT_THE_STEP = new Set([
  ...['precondition_failed', 'invalid_json', 'invalid_request', 'payload_too_large'],
  ...['endpoint_not_found', 'endpoint_in_use', 'endpoint_disabled'],
  ...['limit_not_found', 'too_many_limits', 'too_many_endpoints'],
])
