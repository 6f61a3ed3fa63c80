// What the server says to a change before it is made: the same request under a condition that it
// cannot meet. It looks at the condition last, so that it refuses whatever it would refuse, and
// writes nothing.
import { PosthornError } from '../../src/client/client.ts'
import { errorInCommandWords } from '../command-words.ts'
import { cleaned } from '../terminal-text.ts'
import type { Step } from './plan.ts'

/** The largest that an ETag can name, and that no record reaches. */
export const NO_VERSION = 999_999_999_999_999

/** A sentence for each step that the server would refuse; anything else that fails is thrown. */
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

/** All else would be said of any request: no key, a proxy, a busy store. */
function isAboutTheStep({ code }: PosthornError): boolean {
  return ABOUT_THE_STEP.has(code)
}
const ABOUT_THE_STEP = new Set([
  ...['precondition_failed', 'invalid_json', 'invalid_request', 'payload_too_large'],
  ...['endpoint_not_found', 'endpoint_in_use', 'endpoint_disabled'],
])
