// What a worker knows about endpoints, and for how long, by its own clock.
import { expect, test } from 'vitest'
import { createEndpointCache } from '../../workers/endpoint-cache.ts'
import { addEndpoint } from '../contract/fixtures.ts'
import { useStore } from '../support/stores.ts'

const place = useStore('sqlite', { encryptionKeys: null })

test('a worker that has only just begun asks for the endpoints that it does not know', async () => {
  const name = await addEndpoint(place.store)
  const cache = createEndpointCache(
    place.store,
    () => {},
    () => 1,
  )
  expect([...(await cache.current([name])).keys()]).toEqual([name])
})

test('a change is seen once what is known is old', async () => {
  const name = await addEndpoint(place.store)
  let nowMs = 1_000
  const cache = createEndpointCache(
    place.store,
    () => {},
    () => nowMs,
  )
  expect((await cache.current([name])).get(name)?.paused).toBe(false)
  await place.store.pauseEndpoint(name)
  nowMs += 400
  expect((await cache.current([name])).get(name)?.paused).toBe(false)
  nowMs += 1
  expect((await cache.current([name])).get(name)?.paused).toBe(true)
})
