// The rows, in the order of the table.
import type { Row } from './row.ts'
import { backlogRow } from './rows/backlog.ts'
import { batchRow } from './rows/batch.ts'
import { claimCostRow } from './rows/claim-cost.ts'
import { commandsRow } from './rows/commands.ts'
import { hangingRow } from './rows/hanging.ts'
import { idleRow } from './rows/idle.ts'
import { keysRow } from './rows/keys.ts'
import { memoryRow } from './rows/memory.ts'
import { moreWorkersRow } from './rows/more-workers.ts'
import { agendaRow, bullmqRow, graphileRow, pgBossRow } from './rows/peers-backlog.ts'
import { halfLoadRow, pickUpRow } from './rows/pick-up.ts'
import { postRow } from './rows/post.ts'
import { steadyRow } from './rows/steady.ts'

export const ROWS: Row[] = [
  postRow,
  batchRow,
  backlogRow,
  bullmqRow,
  graphileRow,
  pgBossRow,
  agendaRow,
  steadyRow,
  pickUpRow,
  halfLoadRow,
  claimCostRow,
  keysRow,
  memoryRow,
  commandsRow,
  hangingRow,
  idleRow,
  moreWorkersRow,
]
