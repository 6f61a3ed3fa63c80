// A table that does not go to a terminal shows its last column completely, and limits the others.
import { expect, it } from 'vitest'
import { table } from '../../cli/output.ts'

const COLUMNS = [
  { title: 'name', value: ([name]: string[]) => name ?? null },
  { title: 'note', value: ([, note]: string[]) => note ?? null },
]

it('shows a long note to its end, and of a long name the first 100 characters', () => {
  expect(process.stdout.columns).toBeUndefined()
  const path = '/a'.repeat(70)
  const rows = [
    ['x'.repeat(5_000), `${path} is nested deeper than 64 levels`],
    ['y'.repeat(100), ''],
  ]
  expect(table(rows, COLUMNS).split('\n')).toEqual([
    `NAME${' '.repeat(98)}NOTE`,
    `${'x'.repeat(99)}…  ${path} is nested deeper than 64 levels`,
    `${'y'.repeat(100)}  -`,
  ])
})
