// The promises of the secret box: stored secrets cannot be read, moved or changed, and keys can
// rotate.
import { randomBytes } from 'node:crypto'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { createSecretBox } from '../../src/store/secret-box.ts'
import { StoreUnusable } from '../../src/store/store-errors.ts'

const key = randomBytes(32)
const box = createSecretBox([key])

describe('a secret box', () => {
  test('opens what it sealed, whatever the text', () => {
    fc.assert(
      fc.property(fc.string({ unit: 'grapheme', maxLength: 200 }), fc.string(), (plain, owner) => {
        expect(box.open(box.seal(plain, owner), owner)).toBe(plain)
      }),
    )
  })

  test('seals the same text differently each time, and shows none of it', () => {
    const [first, second] = [box.seal('whsec_planted', 'a'), box.seal('whsec_planted', 'a')]
    expect(first).not.toBe(second)
    expect(first).not.toContain('planted')
    expect(Buffer.from(first.split('.')[2] as string, 'base64').toString('latin1')).not.toContain(
      'planted',
    )
  })

  test('does not open for another owner', () => {
    const sealed = box.seal('secret', 'invoice-pdf')
    expect(() => box.open(sealed, 'invoice-mail')).toThrow(StoreUnusable)
    expect(() => box.open(sealed, 'invoice-mail')).toThrow(/invoice-mail was changed or belongs to/)
  })

  test('does not open what was changed, at whatever byte', () => {
    const [version, id, base64] = box.seal('secret', 'a').split('.')
    const bytes = Buffer.from(base64 as string, 'base64')
    for (let at = 0; at < bytes.length; at++) {
      const changed = Buffer.from(bytes)
      changed[at] = (changed[at] as number) ^ 1
      const text = [version, id, changed.toString('base64')].join('.')
      expect(() => box.open(text, 'a')).toThrow(StoreUnusable)
    }
  })

  test.each(['', 'v1', 'v1.00000000.AAAA', 'plain text', 'v2.x.y'])('refuses %j', (text) => {
    expect(() => box.open(text, 'a')).toThrow(StoreUnusable)
  })

  test('seals with the first key and opens with each, so keys can be rotated', () => {
    const next = randomBytes(32)
    const old = box.seal('secret', 'a')
    const rotating = createSecretBox([next, key])
    expect(rotating.open(old, 'a')).toBe('secret')
    const fresh = rotating.seal('secret', 'a')
    expect(createSecretBox([next]).open(fresh, 'a')).toBe('secret')
    expect(() => box.open(fresh, 'a')).toThrow(/a key that ENCRYPTION_KEY does not hold/)
  })

  test('refuses to be made without a key', () => {
    expect(() => createSecretBox([])).toThrow(StoreUnusable)
  })
})
