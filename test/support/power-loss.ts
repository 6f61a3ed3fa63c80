// The state of an SQLite store after a power loss: all that was committed before the last flush.
import { copyFileSync, readFileSync, rmSync, statSync } from 'node:fs'
import { DatabaseSync } from 'node:sqlite'

const LOG_HEADER_BYTES = 32

/**
 * Copies the file as of the last flush. A checkpoint changes file and log, so that a copy that was
 * made meanwhile is torn, and is made again.
 *
 * @param flush resolves after a flushed commit, such as an acknowledged enqueue
 * @returns called when no process runs any more: puts the copy in the place of the file
 */
export async function keepFlushedState(
  path: string,
  flush: () => Promise<unknown>,
): Promise<() => void> {
  const flushed = `${path}.flushed`
  const version = () => {
    const header = readFileSync(`${path}-wal`).toString('hex', 0, LOG_HEADER_BYTES)
    return `${statSync(path, { bigint: true }).mtimeNs} ${header}`
  }
  let before: string
  do {
    await flush()
    before = version()
    copyFileSync(`${path}-wal`, `${flushed}-wal`)
    copyFileSync(path, flushed)
  } while (version() !== before)
  const copy = new DatabaseSync(flushed)
  // This machine does not start again, so another start is stored with the reservation of fences.
  const { changes } = copy
    .prepare("update meta set value = json_set(value, '$.boot', 1) where key = 'fences'")
    .run()
  copy.close()
  if (changes !== 1) throw new Error('the store has no reservation of fences')
  return () => {
    for (const end of ['-wal', '-shm']) rmSync(path + end, { force: true })
    // The file keeps its inode, as on a disk that has lost power.
    copyFileSync(flushed, path)
    rmSync(flushed)
  }
}
