// Endpoints whose secrets were encrypted with a key that the process lacks, on both stores.
import { randomBytes } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { newSecret } from '../../src/endpoint/endpoint.ts'
import { Undecryptable } from '../../src/store/store-errors.ts'
import { ENGINES } from '../support/engines.ts'
import { useStore } from '../support/stores.ts'
import { addEndpoint, endpointOf, settingsOf } from './fixtures.ts'

const [OLD, NEW] = [randomBytes(32), randomBytes(32)]
const NAMED = expect.objectContaining({ message: expect.stringContaining('ENCRYPTION_KEY') })

describe.each(ENGINES)('the keys of endpoints on %s', (engine) => {
  const place = useStore(engine, { encryptionKeys: [OLD] })

  /** Adds an endpoint through a process that has a key which the store of the test lacks. */
  async function addUndecryptable(): Promise<string> {
    return addEndpoint(await place.open({ encryptionKeys: [NEW, OLD], reencrypts: false }))
  }

  test('one that no key decrypts is read without its secrets, beside the others', async () => {
    const { store } = place
    const well = await addEndpoint(store)
    const lost = await addUndecryptable()
    const found = await store.endpointsNamed([well, lost])
    const byName = new Map(found.map((endpoint) => [endpoint.name, endpoint]))
    expect(byName.get(well)).toMatchObject({ undecryptable: null, secrets: [expect.any(String)] })
    expect(byName.get(lost)).toMatchObject({ secrets: [], headers: {}, paused: false })
    expect(byName.get(lost)?.undecryptable).toContain(lost)
    expect(byName.get(lost)?.undecryptable).toContain('ENCRYPTION_KEY does not hold')
    expect(store.encryptionKeyIds()).toContain(byName.get(well)?.keyId)
    expect(store.encryptionKeyIds()).not.toContain(byName.get(lost)?.keyId)
    const { items } = await store.listEndpoints(null, 100)
    expect(items.map(({ name }) => name)).toEqual(expect.arrayContaining([well, lost]))
  })

  test('a change whose response could not be made is not written', async () => {
    const { store } = place
    const name = await addUndecryptable()
    const before = await endpointOf(store, name)
    const settings = settingsOf({ name })
    const changes = {
      pause: () => store.pauseEndpoint(name),
      resume: () => store.resumeEndpoint(name),
      rotate: () => store.rotateSecret(name, newSecret(), 60_000),
      put: () => store.putEndpoint(settings, { given: null, fresh: newSecret() }, null),
    }
    for (const [verb, change] of Object.entries(changes)) {
      await expect(change(), verb).rejects.toBeInstanceOf(Undecryptable)
      await expect(change(), verb).rejects.toEqual(NAMED)
    }
    expect(await endpointOf(store, name)).toEqual(before)
  })

  test('one that is put with a new secret can be used again', async () => {
    const { store } = place
    const name = await addUndecryptable()
    const given = newSecret()
    const settings = settingsOf({ name, headers: { 'x-tenant': 'blue' } })
    const { kind } = await store.putEndpoint(settings, { given, fresh: newSecret() }, null)
    expect(kind).toBe('replaced')
    expect(await endpointOf(store, name)).toMatchObject({
      ...{ undecryptable: null, secrets: [given], headers: { 'x-tenant': 'blue' } },
    })
  })

  test('one that no key decrypts ends a start, with its name and what to do', async () => {
    const name = await addUndecryptable()
    const opening = place.open({ encryptionKeys: [OLD], reencrypts: false })
    await expect(opening).rejects.toThrow(
      /stored secret of .* was encrypted with a key that ENCRYPTION_KEY does not hold: add that key/,
    )
    await place.store.deleteEndpoint(name, { force: false, ifVersion: null })
  })
})
