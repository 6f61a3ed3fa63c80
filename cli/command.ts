// What defines a command: its arguments, options, help and action; and the parser of its words.
// Most commands have a file of their own under commands/, which is loaded only when it is used.
import { parseArgs } from 'node:util'
import { UsageError } from './exit.ts'

export interface Option {
  type: 'string' | 'boolean'
  /** The name of its value in the help, like DURATION. */
  value?: string
  /** May be given more than once. */
  multiple?: boolean
  help: string
}

type Options = Record<string, Option>

type Values<O extends Options> = {
  [Name in keyof O]?: O[Name]['type'] extends 'boolean'
    ? boolean
    : O[Name] extends { multiple: true }
      ? string[]
      : string
}

/** The words that were typed after the name of the command. */
export interface Given<O extends Options = Options> {
  /** The arguments: as many as `arguments` requires. */
  words: string[]
  values: Values<O>
}

/** A command, or one verb of a command. */
export interface Action<O extends Options = Options> {
  /** One line, without a full stop. */
  summary: string
  /** Their names: `NAME`; `[NAME]` is optional; `NAME...` can be repeated. */
  arguments: readonly string[]
  options: O
  /** Further sentences for its help. */
  details?: string
  /** Complete shell lines that work; at least one. */
  examples: readonly string[]
  /** Resolves with the exit code. Throws errors that exit.ts knows. */
  run(given: Given<O>): Promise<number>
}

/** What a file under commands/ exports as `command`. */
export type Command = Action | { verbs: Record<string, Action> }

/** An action whose `run` knows the types of its options. */
export function action<const O extends Options>(given: Action<O>): Action {
  return given as unknown as Action
}

/** `--json`, for every command that prints a response. */
export const JSON_OPTION = {
  type: 'boolean',
  help: 'print the response of the API as JSON',
} as const satisfies Option

/**
 * @param name as it was typed, for error messages
 * @throws UsageError
 */
export function readWords(name: string, action: Action, words: string[]): Given {
  const options: Record<string, { type: Option['type']; multiple: boolean }> = {}
  for (const [option, { type, multiple = false }] of Object.entries(action.options)) {
    options[option] = { type, multiple }
  }
  try {
    const config = { args: words, options, allowPositionals: true, tokens: true } as const
    const { values, positionals, tokens } = parseArgs(config)
    refuseRepeats(name, action.options, tokens)
    refuseOtherCounts(name, action.arguments, positionals)
    refuseUnusableNames(positionals)
    return { words: positionals, values: values as Values<Options> }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code?.startsWith('ERR_PARSE_ARGS_') !== true) throw error
    throw new UsageError(
      `${dashHint(message) ?? sentenceFrom(message)} See: posthorn ${name} --help`,
    )
  }
}

/** parseArgs would silently use the last of several values. */
function refuseRepeats(
  command: string,
  options: Options,
  tokens: readonly { kind: string; name?: string }[],
): void {
  const names = tokens.flatMap(({ kind, name }) => (kind === 'option' ? [name ?? ''] : []))
  const twice = names.find(
    (name, i) =>
      names.indexOf(name) < i &&
      options[name]?.type === 'string' &&
      options[name].multiple !== true,
  )
  if (twice === undefined) return
  throw new UsageError(`--${twice} can be given only once. See: posthorn ${command} --help`)
}

function refuseOtherCounts(name: string, wanted: readonly string[], found: string[]): void {
  const needed = wanted.filter((one) => !one.startsWith('['))
  const missing = needed[found.length]
  if (missing !== undefined) {
    throw new UsageError(
      `posthorn ${name} needs ${missing.replace('...', '')}. See: posthorn ${name} --help`,
    )
  }
  const isOpen = wanted.at(-1)?.includes('...') === true
  const extra = isOpen ? undefined : found[wanted.length]
  if (extra !== undefined) {
    throw new UsageError(
      `posthorn ${name} got an unexpected argument "${extra}". See: posthorn ${name} --help`,
    )
  }
}

/** Such names would lead to another path when they are in the path of a request. */
function refuseUnusableNames(words: string[]): void {
  const wrong = words.find((word) => word === '' || word === '.' || word === '..')
  if (wrong !== undefined) throw new UsageError(`"${wrong}" is not a valid id, name or file.`)
}

/** The hint for a value that looks like an option; null: it is another error. */
function dashHint(message: string): string | null {
  const [, option] = /^Option '(?:-\w, )?(--[\w-]+)[^']*' argument is ambiguous/.exec(message) ?? []
  if (option === undefined) return null
  return `${option} has no value; one that begins with a dash is written ${option}=VALUE.`
}

/** The first sentence of Node says what is wrong; the rest is advice about dashes. */
function sentenceFrom(message: string): string {
  const [first = message] = message.split(/(?<=[.\n])\s*/)
  return first.endsWith('.') ? first : `${first.trim()}.`
}
