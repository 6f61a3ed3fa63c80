import { describe, expect, it } from 'vitest'
import { instantsAfterEdit, refusalOfEdit } from '../../src/job/edit.ts'

const QUEUED = { state: 'queued', version: 3, wasSent: false } as const
const FRESH = { runAt: 100, firstRunAt: 100, expiresAt: 150, wasSent: false }
const ATTEMPTED = { runAt: 200, firstRunAt: 100, expiresAt: 150, wasSent: true }

describe('a change of a job', () => {
  it('is refused over another version, of one that is not queued, and of a payload that was sent', () => {
    const payload = Buffer.from('{}')
    expect(refusalOfEdit(QUEUED, { payload }, 3)).toBeNull()
    expect(refusalOfEdit(QUEUED, {}, 2)).toEqual({ kind: 'stale', version: 3 })
    expect(refusalOfEdit({ ...QUEUED, state: 'dead' }, {}, null)).toEqual({
      ...{ kind: 'refused', state: 'dead' },
    })
    const sent = { ...QUEUED, wasSent: true }
    expect(refusalOfEdit(sent, { payload }, null)).toEqual({ kind: 'already_sent' })
    expect(refusalOfEdit(sent, { priority: 1 }, null)).toBeNull()
  })

  it('moves the first due time and the expiry until an attempt was made', () => {
    expect(instantsAfterEdit(FRESH, { runAt: 300 })).toEqual({
      ...{ runAt: 300, firstRunAt: 300, expiresAt: 350 },
    })
    expect(instantsAfterEdit(ATTEMPTED, { runAt: 300 })).toEqual({
      ...{ runAt: 300, firstRunAt: 100, expiresAt: 150 },
    })
  })

  it('counts an expiry that is given from the first due time', () => {
    expect(instantsAfterEdit(FRESH, { runAt: 300, expiresInMs: 7 }).expiresAt).toBe(307)
    expect(instantsAfterEdit(ATTEMPTED, { expiresInMs: 7 }).expiresAt).toBe(107)
    expect(instantsAfterEdit(FRESH, { expiresInMs: null }).expiresAt).toBeNull()
    expect(instantsAfterEdit({ ...FRESH, expiresAt: null }, { runAt: 9 }).expiresAt).toBeNull()
  })
})
