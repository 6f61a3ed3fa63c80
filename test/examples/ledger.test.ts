// The ledger of the examples: of two attempts, the older one can write nothing more.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, it } from 'vitest'
import { type Ledger, openLedger, StaleAttempt } from '../../examples/kit/ledger.ts'

const TABLES = 'create table if not exists work (fence integer)'

let folder: string
let older: Ledger
let newer: Ledger
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'posthorn-ledger-'))
  older = openLedger(join(folder, 'ledger.db'), TABLES)
  newer = openLedger(join(folder, 'ledger.db'), TABLES)
})
afterEach(() => {
  for (const { db } of [older, newer]) db.close()
  rmSync(folder, { recursive: true })
})

const note = ({ db }: Ledger, fence: number) => db.prepare('insert into work values (?)').run(fence)
const noted = () => newer.db.prepare('select fence from work').all()

it('refuses an older attempt from the moment that a newer one begins', () => {
  expect(older.begin('job_1', 1)).toBe('begun')
  older.write('job_1', 1, () => note(older, 1))
  expect(newer.begin('job_1', 2)).toBe('begun')
  expect(() => older.write('job_1', 1, () => note(older, 1))).toThrow(StaleAttempt)
  expect(() => older.finish('job_1', 1, 'old', () => note(older, 1))).toThrow(StaleAttempt)
  expect(older.begin('job_1', 1)).toBe('stale')
  expect(newer.finish('job_1', 2, 'new', () => note(newer, 2))).toBe('new')
  expect(noted()).toEqual([{ fence: 1 }, { fence: 2 }])
})

it('returns the result of a job that is done, to the same attempt and to newer ones', () => {
  older.begin('job_1', 1)
  older.finish('job_1', 1, { pages: 3 })
  expect(newer.begin('job_1', 1)).toEqual({ result: { pages: 3 } })
  expect(newer.begin('job_1', 2)).toEqual({ result: { pages: 3 } })
  expect(newer.begin('job_2', 1)).toBe('begun')
})

it('writes all of a change or nothing, the result with it', () => {
  older.begin('job_1', 1)
  const broken = () => {
    note(older, 1)
    throw new Error('in the middle')
  }
  expect(() => older.finish('job_1', 1, 'done', broken)).toThrow('in the middle')
  expect(noted()).toEqual([])
  expect(newer.begin('job_1', 1)).toBe('begun')
})
