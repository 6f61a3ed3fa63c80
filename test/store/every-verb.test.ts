// `posthorn doctor store` tries every method of a store.
import { expect, it } from 'vitest'
import { useEveryVerb } from '../../src/store/every-verb.ts'
import { ENGINES } from '../support/engines.ts'
import { withStore } from '../support/stores.ts'

it.each(ENGINES)('%s: every verb is called, and works', { timeout: 120_000 }, async (engine) => {
  const called = new Set<string>()
  const all = await withStore(engine, async (store) => {
    const watched = new Proxy(store, {
      get(target, name) {
        const value = Reflect.get(target, name)
        if (typeof value !== 'function') return value
        return (...given: unknown[]) => {
          called.add(String(name))
          return value.apply(target, given)
        }
      },
    })
    await useEveryVerb(watched)
    const names: string[] = []
    for (const name in store) {
      if (typeof Reflect.get(store, name) === 'function') names.push(name)
    }
    return names
  })
  expect(all.length).toBeGreaterThan(40)
  expect([...called].sort()).toEqual(all.filter((name) => name !== 'close').sort())
})
