// The text of --help: all commands in groups, or one command with its options and an example.
import { VERSION } from '../src/version.ts'
import type { Action, Command } from './command.ts'
import { COMMAND_GROUPS } from './command-table.ts'

const EXIT_CODES = `Exit codes: 0 success, 1 failure (the server refused, the job is dead, a server
could not start), 2 wrong usage or settings, 3 the server cannot be reached, 4 timeout of a wait,
5 the job that was waited for was cancelled`

const AFTERWORD = `posthorn COMMAND --help prints the options of a command, and an example.

A server reads its settings from the environment (the README lists them): STORE_URL, HOST, PORT,
API_KEYS, … For example: PORT=9000 posthorn start
doctor, migrate, backup and vacuum open the store of STORE_URL themselves. All other commands call
the server at POSTHORN_URL (default http://127.0.0.1:8080) with the API key in POSTHORN_KEY (none in
local mode).

${EXIT_CODES}
`

export function overview(): string {
  const groups = Object.entries(COMMAND_GROUPS).map(([title, entries]) => {
    const lines = Object.entries(entries).map(([name, { summary }]) => [name, summary] as const)
    return `${title}\n${listed(lines)}`
  })
  return `posthorn ${VERSION}: a job queue over HTTP\n\n${groups.join('\n')}\n${AFTERWORD}`
}

/** @param summary of a command that has verbs */
export function commandHelp(name: string, summary: string, command: Command): string {
  if (!('verbs' in command)) return actionHelp(name, command)
  const lines = Object.entries(command.verbs).map(
    ([verb, action]) => [[verb, ...action.arguments].join(' '), action.summary] as const,
  )
  return `posthorn ${name} VERB: ${summary}\n\n${listed(lines)}
posthorn ${name} VERB --help prints the options of a verb, and an example.\n`
}

export function actionHelp(name: string, action: Action): string {
  const options = Object.entries(action.options).map(
    ([option, { value, help }]) =>
      [`--${option}${value === undefined ? '' : ` ${value}`}`, help] as const,
  )
  const parts = [
    `posthorn ${[name, ...action.arguments].join(' ')}${options.length > 0 ? ' [OPTIONS]' : ''}`,
    `${action.summary}.${action.details === undefined ? '' : `\n\n${action.details}`}`,
    ...(options.length > 0 ? [`Options\n${listed(options).trimEnd()}`] : []),
    `Example\n${action.examples.map((line) => `  ${line}`).join('\n')}`,
    EXIT_CODES,
  ]
  return `${parts.join('\n\n')}\n`
}

function listed(lines: readonly (readonly [string, string])[]): string {
  const width = Math.max(...lines.map(([left]) => left.length))
  return lines.map(([left, right]) => `  ${left.padEnd(width)}  ${right}\n`).join('')
}
