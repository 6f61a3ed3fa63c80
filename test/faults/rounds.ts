// All rounds, in the order in which they run.
import type { Round } from './round.ts'
import { apiKills } from './rounds/api-kills.ts'
import { calm } from './rounds/calm.ts'
import { clocks } from './rounds/clocks.ts'
import { commandRaces } from './rounds/command-races.ts'
import { deadWorkers } from './rounds/dead-workers.ts'
import { elections } from './rounds/elections.ts'
import { fairKeys } from './rounds/fair-keys.ts'
import { flows } from './rounds/flows.ts'
import { freezes } from './rounds/freezes.ts'
import { frozenSends } from './rounds/frozen-sends.ts'
import { fullDisk } from './rounds/full-disk.ts'
import { groups } from './rounds/groups.ts'
import { hangingEndpoints } from './rounds/hanging-endpoints.ts'
import { killWindows } from './rounds/kill-windows.ts'
import { overload } from './rounds/overload.ts'
import { powerCuts } from './rounds/power-cuts.ts'
import { randomKills } from './rounds/random-kills.ts'
import { restarts } from './rounds/restarts.ts'
import { resultsInHand } from './rounds/results-in-hand.ts'
import { sameKey } from './rounds/same-key.ts'
import { sharedLimits } from './rounds/shared-limits.ts'
import { slowStores } from './rounds/slow-store.ts'
import { staleWrites } from './rounds/stale-writes.ts'
import { storeOutages } from './rounds/store-outages.ts'
import { strangers } from './rounds/strangers.ts'
import { upkeepTakeovers } from './rounds/upkeep-takeovers.ts'

export const ROUNDS: readonly Round[] = [
  killWindows,
  randomKills,
  fairKeys,
  sharedLimits,
  groups,
  flows,
  freezes,
  frozenSends,
  staleWrites,
  resultsInHand,
  clocks,
  apiKills,
  calm,
  deadWorkers,
  upkeepTakeovers,
  hangingEndpoints,
  sameKey,
  overload,
  strangers,
  commandRaces,
  restarts,
  storeOutages,
  elections,
  ...slowStores,
  fullDisk,
  powerCuts,
]
