// The `.env` file of the current folder, read by `posthorn start` and by the commands that work on
// the same store. Variables that are set already keep their values.
import { existsSync, readFileSync } from 'node:fs'
import { parseEnv } from 'node:util'
import { ConfigError } from '../src/config.ts'

const ENV_FILE = '.env'

/** process.loadEnvFile is not used: it makes a byte order mark part of the first name. */
export function loadEnvFile(): void {
  if (!existsSync(ENV_FILE)) return
  for (const [name, value] of Object.entries(parseEnv(readText()))) process.env[name] ??= value
}

function readText(): string {
  try {
    // TextDecoder drops the byte order mark.
    const text = new TextDecoder('utf-8', { fatal: true }).decode(readFileSync(ENV_FILE))
    if (!text.includes('\0')) return text
  } catch (error) {
    throw new ConfigError(`${ENV_FILE} cannot be read: ${(error as Error).message}.`)
  }
  throw new ConfigError(`${ENV_FILE} is not UTF-8 text; save it as UTF-8.`)
}
