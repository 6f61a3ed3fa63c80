// The disk of the SQLite store is full, and later has space again.
import { execFileSync } from 'node:child_process'
import { mkdtempSync, rmdirSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { nowMs } from '../history.ts'
import { type Outage, playOutage, whileEnqueueing, whileSending } from '../outages.ts'
import type { Round } from '../round.ts'
import { withLoad } from './store-outages.ts'

const SHORT_HOLD_MS = 1_500
const LONG_HOLD_MS = [500, 5_000] as const
/** Stored jobs must fit beside the file that fills the disk. */
const LONGEST_MS = 60_000

const FULL = 'the disk is full'
const REFUSED = `${FULL}: a request got a 503`

export const fullDisk: Round = {
  name: 'full-disk',
  title: 'the disk of the store is full',
  engines: ['sqlite'],
  settings: { leaseMs: 2_000, sweepMs: 250, pollMs: 100 },
  settingsOf: {
    get sqlite() {
      return { isSmallDisk: mayMount() }
    },
  },
  // Met only if the process may mount; the round itself checks that.
  windows: [],
  async play(fixture, form) {
    const { fillDisk } = fixture.store
    if (fillDisk === null) {
      if (form.isLong) fixture.complain('a small disk can not be mounted here: it takes root')
      else console.log('    no disk was filled: to mount a small one takes root')
      return
    }
    const outage: Outage = { name: FULL, kind: 'disk_full', target: 'store', begin: fillDisk }
    await withLoad(fixture, async (load) => {
      const endsAtMs = nowMs() + (form.isLong ? Math.min(form.minutes * 60_000, LONGEST_MS) : 0)
      do {
        const heldMs = form.isLong ? fixture.random.between(...LONG_HOLD_MS) : SHORT_HOLD_MS
        await playOutage(fixture, load, outage, heldMs)
      } while (nowMs() < endsAtMs)
    })
    fixture.hit(REFUSED, fixture.client.calls.filter(({ status }) => status === 503).length)
    for (const window of [REFUSED, whileSending(FULL), whileEnqueueing(FULL)]) {
      if (!fixture.windows.get(window)) fixture.complain(`void: never met: ${window}`)
    }
  },
}

/** Whether the process may mount a file system, found by trying. */
function mayMount(): boolean {
  const folder = mkdtempSync(join(tmpdir(), 'posthorn-mount-'))
  try {
    execFileSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', folder], { stdio: 'ignore' })
    execFileSync('umount', [folder])
    return true
  } catch {
    // Whatever the error is, there is no small disk.
    return false
  } finally {
    rmdirSync(folder)
  }
}
