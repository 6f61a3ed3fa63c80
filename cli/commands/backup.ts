// posthorn backup: copies the SQLite store into a file, while the API and workers go on.
import { readConfig } from '../../src/config.ts'
import { backUpStore } from '../../src/store/open-store.ts'
import { action } from '../command.ts'
import { loadEnvFile } from '../env-file.ts'
import { CommandFailed, EXIT } from '../exit.ts'
import { say } from '../shown.ts'

export const command = action({
  summary: 'Copy the SQLite store into a file, while it is in use',
  arguments: ['FILE'],
  options: {},
  details: `The store is the one of STORE_URL, here or in .env; run it where the store is. A key
file beside it is copied too, to FILE.key: who has both can use them as a store, and read it.`,
  examples: ['STORE_URL=sqlite:./data/posthorn.db posthorn backup posthorn-backup.db'],
  async run({ words: [file = ''] }) {
    loadEnvFile()
    const { STORE_URL, ENCRYPTION_KEY } = readConfig(process.env)
    const copy = await backUpStore(STORE_URL, file)
    if (copy === null) {
      throw new CommandFailed(
        'This store is in MongoDB: copy it with mongodump, and keep ENCRYPTION_KEY.',
      )
    }
    say(`${file} holds ${copy.bytes} bytes.`)
    if (ENCRYPTION_KEY !== null)
      say('Its secrets can be read with ENCRYPTION_KEY only: keep that too.')
    else if (copy.keyFile !== null)
      say(`${copy.keyFile} is the key to the secrets in it: keep both.`)
    return EXIT.done
  },
})
