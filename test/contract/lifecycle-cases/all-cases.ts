// How to try each event of the life cycle, and how to break each of its guards alone. A new event
// or guard without a case here does not compile.
import type { EventName } from '../../../src/job/lifecycle.ts'
import { CLAIM_CASES } from './claim-cases.ts'
import type { CasesOf } from './event-case.ts'
import { HOLDER_CASES } from './holder-cases.ts'
import { NEEDS_CASES } from './needs-cases.ts'
import { REQUEST_CASES } from './request-cases.ts'
import { SWEEPER_CASES } from './sweeper-cases.ts'

export const CASES: CasesOf<EventName> = {
  ...CLAIM_CASES,
  ...NEEDS_CASES,
  ...HOLDER_CASES,
  ...SWEEPER_CASES,
  ...REQUEST_CASES,
}
