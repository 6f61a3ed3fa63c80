// posthorn backup: copies the SQLite store to a file while the API and workers keep running.
import { readConfig } from '../../src/config.ts'
import { backUpStore } from '../../src/store/open-store.ts'
import { action } from '../command.ts'
import { loadEnvFile } from '../env-file.ts'
import { CommandFailed, EXIT } from '../exit.ts'
import { printError, printLine } from '../output.ts'

export const command = action({
  summary: 'Copy the SQLite store to a file while it is in use',
  arguments: ['FILE'],
  options: {},
  details: `The store is that of STORE_URL, from the environment or .env; run this on its machine.
The copy is checked before it gets its name. A key file beside the store is copied too,
to FILE.key: with both files the store can be used, and its secrets can be read.`,
  examples: ['STORE_URL=sqlite:./data/posthorn.db posthorn backup posthorn-backup.db'],
  async run({ words: [file = ''] }) {
    loadEnvFile()
    const { STORE_URL, ENCRYPTION_KEY } = readConfig(process.env)
    // On exit an unfinished copy is removed; without these handlers the signal would leave it.
    for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'])
      process.on(signal, () => process.exit(EXIT.failed))
    const copy = await backUpStore(STORE_URL, file, ENCRYPTION_KEY)
    if (copy === null) {
      throw new CommandFailed(
        'This store is in MongoDB: copy it with mongodump, and keep ENCRYPTION_KEY.',
      )
    }
    printLine(`${file} is a checked copy of the store, ${copy.bytes} bytes.`)
    if (copy.key.kind === 'file')
      printLine(`${copy.key.path} is the key to the secrets in it: keep both.`)
    if (copy.key.kind === 'given') {
      printLine('Its secrets can be read with ENCRYPTION_KEY only: keep that too.')
    }
    if (copy.key.kind === 'missing') {
      printError(
        'No key was copied: there is no key file beside the store, and ENCRYPTION_KEY is not set here.\n' +
          `${file} starts only with the key that the servers of this store use: keep that too.`,
      )
    }
    return EXIT.done
  },
})
