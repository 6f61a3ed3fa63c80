// Finds the command that was typed and runs it. It does not change the process.
import { PosthornError } from '../src/client/posthorn-error.ts'
import { VERSION } from '../src/version.ts'
import { type Action, readWords } from './command.ts'
import { entryOf } from './command-table.ts'
import { errorInCommandWords } from './command-words.ts'
import { EXIT, UsageError } from './exit.ts'
import { actionHelp, commandHelp, overview } from './help.ts'
import { print } from './output.ts'

/** Resolves with the exit code. Rejects with errors that errorMessage() knows. */
export async function runCommand(words: string[]): Promise<number> {
  const [word = 'help', ...rest] = words
  if (word === 'help' && rest.length > 0) return runCommand([...rest, '--help'])
  if (word === 'help' || isHelp(word)) return show(overview())
  if (word === '--version') return show(`${VERSION}\n`)
  const entry = entryOf(word)
  if (entry === undefined) {
    throw new UsageError(`posthorn has no command "${words.join(' ')}".\n\n${overview().trimEnd()}`)
  }
  const { command } = await entry.load()
  if (!('verbs' in command)) return runAction(word, command, rest)
  const [verb, ...further] = rest
  if (verb === undefined || isHelp(verb)) {
    const help = commandHelp(word, entry.summary, command)
    if (verb !== undefined) return show(help)
    throw new UsageError(`posthorn ${word} needs a verb.\n\n${help.trimEnd()}`)
  }
  const action = Object.hasOwn(command.verbs, verb) ? command.verbs[verb] : undefined
  if (action !== undefined) return runAction(`${word} ${verb}`, action, further)
  const known = Object.keys(command.verbs).join(', ')
  throw new UsageError(`posthorn ${word} has no verb "${verb}"; expected ${known}.`)
}

async function runAction(name: string, action: Action, words: string[]): Promise<number> {
  const end = words.indexOf('--')
  if (words.slice(0, end === -1 ? undefined : end).some(isHelp)) {
    return show(actionHelp(name, action))
  }
  const given = readWords(name, action, words)
  try {
    return await action.run(given)
  } catch (error) {
    throw error instanceof PosthornError ? errorInCommandWords(error, { action, given }) : error
  }
}

export function isHelp(word: string): boolean {
  return word === '--help' || word === '-h'
}

function show(text: string): number {
  print(text)
  return EXIT.done
}
