// Retries a call with growing pauses while the server is away, and prints that.
import { setTimeout as sleep } from 'node:timers/promises'
import { PosthornError } from '../../src/client/client.ts'
import { wasUnsent } from '../../src/client/refusal.ts'
import { errorInCommandWords } from '../command-words.ts'
import { cleaned } from '../terminal-text.ts'

const FIRST_PAUSE_MS = 1_000
const MAX_PAUSE_MS = 30_000

/**
 * Resolves with the result of `work`, or null if `stopping` was aborted before.
 *
 * @param isFinal whether a retry would get the same refusal
 * @throws PosthornError if it is final
 */
export async function retryWhileAway<T>(
  work: () => Promise<T>,
  print: (sentence: string) => void,
  stopping: AbortSignal,
  isFinal = isFromServer,
): Promise<T | null> {
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(pauseMs * 2, MAX_PAUSE_MS)) {
    if (stopping.aborted) return null
    try {
      const result = await work()
      if (pauseMs > FIRST_PAUSE_MS) print('The server responds again.')
      return result
    } catch (error) {
      if (stopping.aborted) return null
      if (!(error instanceof PosthornError) || isFinal(error)) throw error
      print(`${cleaned(errorInCommandWords(error).detail)}; trying again in ${pauseMs / 1_000} s.`)
      // If aborted, the check at the start of the loop ends it.
      await sleep(pauseMs, undefined, { signal: stopping }).catch(() => {})
    }
  }
}

/** False for the response of a proxy while the server is away. */
export function isFromServer({ status, code }: PosthornError): boolean {
  return status !== null && status < 500 && code !== 'unexpected_answer'
}

/**
 * For the time before the first response of Posthorn: a busy Posthorn and a server that does not
 * listen yet are retried. Anything else means a wrong URL.
 */
export function isFinalAtStart({ status, code, cause }: PosthornError): boolean {
  if (status === null) return !wasUnsent(cause)
  return status !== 503 || code === 'unexpected_answer'
}
