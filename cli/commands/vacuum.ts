// posthorn vacuum: gives the free room of the SQLite store back to the disk.
import { readConfig } from '../../src/config.ts'
import { vacuumStore } from '../../src/store/open-store.ts'
import { action } from '../command.ts'
import { loadEnvFile } from '../env-file.ts'
import { CommandFailed, EXIT } from '../exit.ts'
import { printLine } from '../output.ts'

export const command = action({
  summary: 'Give the free room of the SQLite store back to the disk',
  arguments: [],
  options: {},
  details: `The store is the one of STORE_URL, here or in .env; run it where the store is. The API
and workers go on meanwhile. Workers do the same at each sweep, little by little, where more than
a tenth of the file is free.`,
  examples: ['STORE_URL=sqlite:./data/posthorn.db posthorn vacuum'],
  async run() {
    loadEnvFile()
    const vacuumed = await vacuumStore(readConfig(process.env).STORE_URL)
    if (vacuumed === null) {
      throw new CommandFailed(
        'This store is in MongoDB, which uses the room of deleted jobs again by itself; to give it back to the disk see its command compact.',
      )
    }
    const { pages, bytes, fileBytes } = vacuumed
    printLine(
      `${pages} pages, ${bytes} bytes, were given back; the store has ${fileBytes} bytes now.`,
    )
    return EXIT.done
  },
})
