// apply, endpoints put and set print differences. A difference never has the same text on both
// sides.
import { expect, it } from 'vitest'
import { differenceLines } from '../../cli/apply/difference.ts'

const LONG = 'a'.repeat(100)
const CUT = `…${'a'.repeat(20)}`

it.each<[what: string, before: unknown, after: unknown, lines: string[]]>([
  ['short values whole', { a: 1 }, { a: 2 }, ['f: {"a":1} → {"a":2}']],
  ['what was not there', undefined, [], ['f: none → []']],
  ['the end of a long text', `${LONG}x`, `${LONG}y`, [`f: ${CUT}x" → ${CUT}y"`]],
  ['a long text and its beginning', `${LONG}x`, LONG, [`f: ${CUT}x" → ${CUT}"`]],
  [
    'the middle of a long text',
    `${LONG}x${LONG}`,
    `${LONG}y${LONG}`,
    [`f: ${CUT}x${'a'.repeat(39)}… → ${CUT}y${'a'.repeat(39)}…`],
  ],
  [
    'the parts of long objects',
    { [LONG]: 1, deep: { last: 1, 'of two': 2, gone: null } },
    { [LONG]: 1, deep: { last: 2, 'of two': 3, come: LONG } },
    [
      'f.deep.last: 1 → 2',
      'f.deep["of two"]: 2 → 3',
      'f.deep.gone: null → none',
      `f.deep.come: none → "${'a'.repeat(59)}…`,
    ],
  ],
  [
    'the items of long lists',
    [LONG, { a: [1] }],
    [LONG, { a: [2] }],
    ['f[1]: {"a":[1]} → {"a":[2]}'],
  ],
  [
    'long lists of other lengths around the difference',
    [LONG, 1],
    [LONG, 1, 2],
    [`f: …${'a'.repeat(17)}",1] → …${'a'.repeat(17)}",1,2]`],
  ],
  ['what is not visible', 'a\u200bb', 'a\u2028b', ['f: "a\\u200bb" → "a\\u2028b"']],
])('shows %s', (_, before, after, lines) => {
  const found = differenceLines('f', before, after)
  expect(found).toEqual(lines)
  for (const line of found) {
    const [, old, fresh] = /: (.+) → (.+)$/.exec(line) ?? []
    expect(old).not.toBe(fresh)
  }
})
