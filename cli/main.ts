// The process of the posthorn command: runs what was typed, and reports how it ended.
import { setDefaultAutoSelectFamilyAttemptTimeout } from 'node:net'
import { isServer } from './command-table.ts'
import { errorMessage } from './exit.ts'
import { outliveReaders, printError } from './output.ts'
import { isHelp, runCommand } from './run-command.ts'

/**
 * The time for each address of a host that this process connects to, such as a distant database
 * with IPv4 and IPv6 addresses: the default of Node is 250 ms. Deliveries use webhook/dial.ts
 * instead.
 */
const ADDRESS_MS = 2_500

const words = process.argv.slice(2)

setDefaultAutoSelectFamilyAttemptTimeout(ADDRESS_MS)
outliveReaders(isServer(words[0]) && !words.some(isHelp))

runCommand(words).then(
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
