// Work that outlasts a server that is away: tried again with growing pauses, saying so.
import { setTimeout as sleep } from 'node:timers/promises'
import { PosthornError } from '../../src/client/client.ts'
import { wasUnsent } from '../../src/client/refusal.ts'
import { errorInCommandWords } from '../command-words.ts'
import { cleaned } from '../terminal-text.ts'

const FIRST_PAUSE_MS = 1_000
const MAX_PAUSE_MS = 30_000

/**
 * What `work` resolves with; null when `stopping` was aborted before.
 *
 * @param isFinal whether the server would say the same next time
 * @throws PosthornError that is final
 */
export async function withPatience<T>(
  work: () => Promise<T>,
  print: (sentence: string) => void,
  stopping: AbortSignal,
  isFinal = isOfServer,
): Promise<T | null> {
  for (let pauseMs = FIRST_PAUSE_MS; ; pauseMs = Math.min(pauseMs * 2, MAX_PAUSE_MS)) {
    if (stopping.aborted) return null
    try {
      const result = await work()
      if (pauseMs > FIRST_PAUSE_MS) print('The server answers again.')
      return result
    } catch (error) {
      if (stopping.aborted) return null
      if (!(error instanceof PosthornError) || isFinal(error)) throw error
      print(`${cleaned(errorInCommandWords(error).detail)}; trying again in ${pauseMs / 1_000} s.`)
      // Aborted: the next look at the signal ends this.
      await sleep(pauseMs, undefined, { signal: stopping }).catch(() => {})
    }
  }
}

/** What a proxy says while the server is away is not the server's word. */
export function isOfServer({ status, code }: PosthornError): boolean {
  return status !== null && status < 500 && code !== 'unexpected_answer'
}

/**
 * Before Posthorn has answered once: only a Posthorn that is busy, or a server that does not listen
 * yet, is worth waiting for. Anything else means a wrong URL.
 */
export function isFinalAtStart({ status, code, cause }: PosthornError): boolean {
  if (status === null) return !wasUnsent(cause)
  return status !== 503 || code === 'unexpected_answer'
}
