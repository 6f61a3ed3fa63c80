// A clock for the processes that are started with its environment: libfaketime, set by writing a
// file.
import { existsSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'

/** null: libfaketime is not installed. */
export const FAKETIME =
  ['x86_64', 'aarch64']
    .map((machine) => `/usr/lib/${machine}-linux-gnu/faketime/libfaketime.so.1`)
    .find(existsSync) ?? null

export function fakeClock() {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-clock-'))
  const path = join(folder, 'clock')
  /** @param offset for example `+400d` */
  const set = (offset: string) => {
    // The file is renamed into place, so that no process reads half a line.
    writeFileSync(`${path}.new`, `${offset}\n`)
    renameSync(`${path}.new`, path)
  }
  set('+0')
  return {
    set,
    env: {
      LD_PRELOAD: FAKETIME as string,
      FAKETIME_TIMESTAMP_FILE: path,
      FAKETIME_NO_CACHE: '1',
      FAKETIME_DONT_FAKE_MONOTONIC: '1',
    },
    remove: () => rmSync(folder, { recursive: true }),
  }
}
