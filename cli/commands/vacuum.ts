// posthorn vacuum: returns the free space of the SQLite store to the disk.
import { readConfig } from '../../src/config.ts'
import { vacuumStore } from '../../src/store/open-store.ts'
import { action } from '../command.ts'
import { loadEnvFile } from '../env-file.ts'
import { CommandFailed, EXIT } from '../exit.ts'
import { printLine } from '../output.ts'

export const command = action({
  summary: 'Return free space of the SQLite store to the disk',
  arguments: [],
  options: {},
  details: `The store is that of STORE_URL, from the environment or .env; run this on its machine.
The API and workers keep running. Workers do the same in small steps at each sweep, if
more than a tenth of the file is free.`,
  examples: ['STORE_URL=sqlite:./data/posthorn.db posthorn vacuum'],
  async run() {
    loadEnvFile()
    const vacuumed = await vacuumStore(readConfig(process.env).STORE_URL)
    if (vacuumed === null) {
      throw new CommandFailed(
        'This store is in MongoDB, which reuses the space of deleted jobs by itself. Its command compact returns it to the disk.',
      )
    }
    const { pages, bytes, fileBytes } = vacuumed
    printLine(
      `${pages} pages (${bytes} bytes) were returned; the store has ${fileBytes} bytes now.`,
    )
    return EXIT.done
  },
})
