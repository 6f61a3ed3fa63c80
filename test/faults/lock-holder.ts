// A process that holds the write lock of SQLite files half of the time. Usage: node lock-holder.ts
// MS FILE...

import { DatabaseSync } from 'node:sqlite'
import { setTimeout as sleep } from 'node:timers/promises'

const [ms, ...paths] = process.argv.slice(2)
const writers = paths.map((path) => new DatabaseSync(path, { timeout: 5_000 }))
for (let rounds = 0; ; rounds++) {
  for (const writer of writers) writer.exec('begin immediate')
  if (rounds === 0) console.log('holding')
  await sleep(Number(ms))
  for (const writer of writers) writer.exec('commit')
  await sleep(Number(ms))
}
