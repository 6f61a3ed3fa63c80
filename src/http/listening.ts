// Listens at the configured address. An error names the setting that is wrong.
import { ConfigError } from '../config.ts'

/** The address is in use, or not allowed: exit code 1. */
export class ListenFailed extends Error {
  override readonly name = 'ListenFailed'
}

const TAKEN: ReadonlySet<unknown> = new Set(['EADDRINUSE', 'EACCES', 'EADDRNOTAVAIL'])
const UNKNOWN_HOST: ReadonlySet<unknown> = new Set(['ENOTFOUND', 'EAI_AGAIN', 'EINVAL'])

/** @throws ConfigError for an invalid host, ListenFailed for an address that is not available */
export async function listenAt<T>(
  { host, portSetting }: { host: string; portSetting: 'PORT' | 'WORKER_PORT' },
  listen: () => Promise<T>,
): Promise<T> {
  try {
    return await listen()
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (TAKEN.has(code)) {
      const advice = `Set HOST and ${portSetting} to a free address of this machine.`
      throw new ListenFailed(`${message.replace(/^listen /, '')}. ${advice}`, { cause: error })
    }
    if (!UNKNOWN_HOST.has(code)) throw error
    const expected = 'expected an address or a name of this machine, like 127.0.0.1'
    throw new ConfigError(`HOST is "${host}", which does not resolve (${code}); ${expected}.`)
  }
}
