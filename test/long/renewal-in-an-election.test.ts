// An election that begins at the first renewal of a lease, and lasts longer than the driver and the
// failure detection of a replica set usually take (10 s, and the vote).
import { pino } from 'pino'
import { expect, it, onTestFinished } from 'vitest'
import { openMongoStore } from '../../src/store/mongo/store.ts'
import { LeaseRenewal } from '../../workers/lease-renewal.ts'
import { addEndpoint, claimOne, enqueueOne, jobOf, leaseOf } from '../contract/fixtures.ts'
import { startElectionProxy } from '../support/election-proxy.ts'
import { useStore } from '../support/stores.ts'
import { until } from '../support/until.ts'

const LEASE_MS = 30_000
const ELECTION_MS = 12_700
const DEADLINE_MS = 60_000

const place = useStore('mongo')

it(
  'a lease of 30 s survives an election of 12.7 s at its first renewal',
  async () => {
    const proxy = await startElectionProxy(place.url, 'heartbeatFrequencyMS=10000')
    onTestFinished(() => proxy.stop())
    const store = await openMongoStore(proxy.url, {
      ...{ retentionMs: 1_000, retentionDeadMs: 1_000, warn: () => {} },
      encryptionKeys: [place.encryptionKey],
    })
    onTestFinished(() => store.close())
    const endpoint = await addEndpoint(store)
    const { id } = await enqueueOne(store, endpoint)
    const claimedAtMs = performance.now()
    const claimed = await claimOne(store, endpoint, LEASE_MS)
    const firstExpiry = (await jobOf(place.store, id)).lease?.expiresAt as number
    const renewal = new LeaseRenewal(store, LEASE_MS, pino({ level: 'silent' }))
    const aborted: string[] = []
    renewal.keep(leaseOf(claimed), claimedAtMs, (outcome) => aborted.push(outcome))
    let electionCount = 0
    proxy.electionMs = ELECTION_MS
    proxy.decide = (_, message) => {
      if (electionCount > 0 || !message.includes('$max')) return null
      electionCount += 1
      return { kind: 'refused', by: 'PrimarySteppedDown' }
    }

    renewal.start()
    onTestFinished(() => renewal.stop())
    const isRenewed = async () => {
      const { lease } = await jobOf(place.store, id)
      return (lease?.expiresAt ?? 0) > firstExpiry || aborted.length > 0
    }
    await until(isRenewed, DEADLINE_MS)

    expect(aborted).toEqual([])
    expect(electionCount).toBe(1)
  },
  DEADLINE_MS,
)
