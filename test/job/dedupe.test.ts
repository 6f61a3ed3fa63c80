import { describe, expect, it } from 'vitest'
import { decideDedupe } from '../../src/job/dedupe.ts'

const UNSENT = { state: 'queued', wasSent: false } as const
const ATTEMPTED = { state: 'queued', wasSent: true } as const
const RUNNING = { state: 'running', wasSent: true } as const

describe('a request with a dedupe key', () => {
  it.each([UNSENT, ATTEMPTED, RUNNING])('keeps or respects an owner in any state', (owner) => {
    expect(decideDedupe('keep', owner)).toEqual({ kind: 'keep' })
    expect(decideDedupe('reject', owner)).toEqual({ kind: 'reject' })
  })

  it('takes back what was not sent, and nothing else', () => {
    expect(decideDedupe('replace', UNSENT)).toEqual({ kind: 'replace' })
    expect(decideDedupe('replace', ATTEMPTED)).toEqual({ kind: 'displace' })
    expect(decideDedupe('replace', RUNNING)).toEqual({ kind: 'supersede' })
  })
})
