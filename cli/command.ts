// The shape of a command: what it takes, what it says of itself, what it does; and how its words
// are read. Each lives in a file of its own under commands/ and is loaded only when it is asked for.
import { parseArgs } from 'node:util'
import { UsageError } from './exit.ts'

export interface Option {
  type: 'string' | 'boolean'
  /** What its value is called in the help, like DURATION. */
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

/** What was typed after the command's name. */
export interface Given<O extends Options = Options> {
  /** As many as `arguments` asks for. */
  words: string[]
  values: Values<O>
}

/** One thing that can be done: a command, or a verb of one. */
export interface Action<O extends Options = Options> {
  /** One line, without a full stop. */
  summary: string
  /** Their names: `NAME`, `[NAME]` may be left out, `NAME...` may come more than once. */
  arguments: readonly string[]
  options: O
  /** Further sentences for its help. */
  details?: string
  /** Whole shell lines, each of which works; at least one. */
  examples: readonly string[]
  /** Resolves with the exit code; throws what exit.ts can tell. */
  run(given: Given<O>): Promise<number>
}

/** What a file under commands/ exports as `command`. */
export type Command = Action | { verbs: Record<string, Action> }

/** An action whose `run` knows the types of its options. */
export function action<const O extends Options>(given: Action<O>): Action {
  return given as unknown as Action
}

/** `--json`, wherever something is shown. */
export const JSON_OPTION = {
  type: 'boolean',
  help: 'the answer of the API as JSON, for scripts',
} as const satisfies Option

/**
 * @param name as it was typed, for the sentence about what is wrong
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
    refuseNoNames(positionals)
    return { words: positionals, values: values as Values<Options> }
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException
    if (code?.startsWith('ERR_PARSE_ARGS_') !== true) throw error
    throw new UsageError(`${sentenceFrom(message)} See: posthorn ${name} --help`)
  }
}

/** Of several values the last would count, silently. */
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
      `posthorn ${name} does not know what "${extra}" is for. See: posthorn ${name} --help`,
    )
  }
}

/** In the path of a request they would name another path. */
function refuseNoNames(words: string[]): void {
  const wrong = words.find((word) => word === '' || word === '.' || word === '..')
  if (wrong !== undefined) throw new UsageError(`"${wrong}" is no id, no name and no file.`)
}

/** Node's first sentence says what is wrong; what follows is advice about dashes. */
function sentenceFrom(message: string): string {
  const [first = message] = message.split(/(?<=[.\n])\s*/)
  return first.endsWith('.') ? first : `${first.trim()}.`
}
