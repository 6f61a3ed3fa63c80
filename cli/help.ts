// What --help shows: all commands in their groups, or one with its options and an example.
import { VERSION } from '../src/version.ts'
import type { Action, Command } from './command.ts'
import { COMMAND_GROUPS } from './command-table.ts'

const EXIT_CODES = `Exit codes: 0 done, 1 failed (the server said no, a job is dead, it could not
start), 2 wrong usage or settings, 3 the server cannot be reached, 4 waited too long, 5 a job that
was waited for was cancelled`

const AFTERWORD = `posthorn COMMAND --help has the options of each, and an example.

Settings of a server come from its environment (README has the table): STORE_URL, HOST, PORT,
API_KEYS, … For instance: PORT=9000 posthorn start
All other commands talk to the server at POSTHORN_URL (http://127.0.0.1:8080 if not set) with the
API key in POSTHORN_KEY (none in local mode).

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
posthorn ${name} VERB --help has the options of each, and an example.\n`
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
    `For instance\n${action.examples.map((line) => `  ${line}`).join('\n')}`,
    EXIT_CODES,
  ]
  return `${parts.join('\n\n')}\n`
}

function listed(lines: readonly (readonly [string, string])[]): string {
  const width = Math.max(...lines.map(([left]) => left.length))
  return lines.map(([left, right]) => `  ${left.padEnd(width)}  ${right}\n`).join('')
}
