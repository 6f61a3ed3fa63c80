// The posthorn command: finds the command that was typed, runs it, and reports how it ended.
import { setDefaultAutoSelectFamilyAttemptTimeout } from 'node:net'
import { PosthornError } from '../src/client/posthorn-error.ts'
import { VERSION } from '../src/version.ts'
import { type Action, readWords } from './command.ts'
import { entryOf, isServer } from './command-table.ts'
import { errorInCommandWords } from './command-words.ts'
import { EXIT, errorMessage, UsageError } from './exit.ts'
import { actionHelp, commandHelp, overview } from './help.ts'
import { outliveReaders, print, printError } from './output.ts'

/**
 * The time for each address of a host that this process connects to, such as a distant database
 * with IPv4 and IPv6 addresses: the default of Node is 250 ms. Deliveries use webhook/dial.ts
 * instead.
 */
const ADDRESS_MS = 2_500

async function main(words: string[]): Promise<number> {
  setDefaultAutoSelectFamilyAttemptTimeout(ADDRESS_MS)
  const [word = 'help', ...rest] = words
  if (word === 'help' && rest.length > 0) return main([...rest, '--help'])
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

function isHelp(word: string): boolean {
  return word === '--help' || word === '-h'
}

function show(text: string): number {
  print(text)
  return EXIT.done
}

const words = process.argv.slice(2)

outliveReaders(isServer(words[0]) && !words.some(isHelp))

main(words).then(
  (exitCode) => {
    // process.exit is not used, because the API and a worker keep running.
    process.exitCode ||= exitCode
  },
  (error) => {
    const { text, exitCode } = errorMessage(error, isServer(words[0]))
    printError(text)
    process.exit(exitCode)
  },
)
