// posthorn migrate: brings the store to the schema and indexes of this version.
import { readConfig } from '../../src/config.ts'
import { migrateStore } from '../../src/store/open-store.ts'
import { action } from '../command.ts'
import { loadEnvFile } from '../env-file.ts'
import { EXIT } from '../exit.ts'
import { printError, printLine } from '../output.ts'

export const command = action({
  summary: 'Bring the store to the schema and indexes of this version',
  arguments: [],
  options: {},
  details: `The store is that of STORE_URL, from the environment or .env.
The API takes most steps itself when it starts. This command takes those that need every
process to be stopped, and on MongoDB it also drops indexes that this version no longer
uses: run it once all processes have the new version.`,
  examples: ['STORE_URL=sqlite:./data/posthorn.db posthorn migrate'],
  async run() {
    loadEnvFile()
    const { from, to, faults, ...indexes } = await migrateStore(readConfig(process.env).STORE_URL)
    printLine(
      from === to
        ? `The store has schema ${to}, that of this version.`
        : `The store had schema ${from}, and has schema ${to} now.`,
    )
    for (const name of indexes.createdIndexes) printLine(`Index created: ${name}`)
    for (const name of indexes.changedIndexes) printLine(`Index changed: ${name}`)
    for (const name of indexes.droppedIndexes) printLine(`Index dropped: ${name}`)
    for (const fault of faults) printError(fault)
    return faults.length === 0 ? EXIT.done : EXIT.failed
  },
})
