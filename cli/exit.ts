// How a command ends: its exit code, and the message for each failure.
import { PosthornError } from '../src/client/posthorn-error.ts'
import { ConfigError } from '../src/config.ts'
import { ListenFailed } from '../src/http/listening.ts'
import { SettingUnusable, StoreUnavailable, StoreUnusable } from '../src/store/store-errors.ts'
import { cleaned } from './terminal-text.ts'

export const EXIT = {
  done: 0,
  /** The server refused, the job is dead, or the process could not start. */
  failed: 1,
  wrongUsage: 2,
  unreachable: 3,
  waitedTooLong: 4,
  /** The job that was waited for. */
  cancelled: 5,
} as const

/** What was typed is not a command, or names a file that cannot be used. */
export class UsageError extends Error {
  override readonly name = 'UsageError'
}

/** A message for the user, and the exit code. */
export class CommandFailed extends Error {
  override readonly name = 'CommandFailed'
  readonly exitCode: number

  constructor(sentence: string, exitCode: number = EXIT.failed) {
    super(sentence)
    this.exitCode = exitCode
  }
}

/**
 * A message for a failure that the user can fix; the stack for one that only a developer can.
 *
 * @param isServer whether the command starts the API or a worker
 */
export function errorMessage(
  error: unknown,
  isServer: boolean,
): { text: string; exitCode: number } {
  if (error instanceof UsageError) return { text: error.message, exitCode: EXIT.wrongUsage }
  if (error instanceof CommandFailed) return { text: error.message, exitCode: error.exitCode }
  if (error instanceof PosthornError) return serverErrorMessage(error)
  if (error instanceof ConfigError || error instanceof SettingUnusable) {
    const start = 'posthorn cannot start with these settings:\n'
    return { text: `${isServer ? start : ''}${error.message}`, exitCode: EXIT.wrongUsage }
  }
  return { text: otherFailure(error, isServer), exitCode: EXIT.failed }
}

function otherFailure(error: unknown, isServer: boolean): string {
  const isKnown = error instanceof StoreUnusable || error instanceof StoreUnavailable
  if (isKnown) return isServer ? `posthorn cannot start: ${error.message}` : error.message
  if (error instanceof ListenFailed) return `posthorn cannot listen: ${error.message}`
  const whole = error instanceof Error ? error.stack : error
  return `posthorn failed${isServer ? ' to start' : ''}: ${whole}`
}

/** The detail of the response, and the problem of each field. */
function serverErrorMessage(error: PosthornError): { text: string; exitCode: number } {
  // The detail is often the message about one field, with its path or without.
  const further = error.errors
    .filter(({ message }) => message !== error.detail)
    .map(({ path, message }) => `${path}: ${message}`)
    .filter((field) => !error.detail.includes(field))
  const text = [error.detail, ...further].map(cleaned).join('\n  ')
  switch (error.code) {
    case 'connection_failed':
    case 'timeout':
    case 'unexpected_answer':
      return { text: `${text}\n${SERVER_HINT}`, exitCode: EXIT.unreachable }
    // The server validates most of what was typed or is in a file.
    case 'invalid_request':
    case 'invalid_json':
      return { text, exitCode: EXIT.wrongUsage }
    case 'wait_timeout':
      return { text, exitCode: EXIT.waitedTooLong }
    case 'unauthorized':
      return { text: `${text}\nSet POSTHORN_KEY to an API key.`, exitCode: EXIT.failed }
    default:
      return { text, exitCode: EXIT.failed }
  }
}

const SERVER_HINT = 'POSTHORN_URL sets the address of the server (default http://127.0.0.1:8080).'
