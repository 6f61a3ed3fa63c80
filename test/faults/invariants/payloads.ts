// I12: a store that keeps payloads apart from their jobs never has a job without its payload.
import type { Facts, Report } from './facts.ts'

export function checkPayloads({ history }: Facts, report: Report): void {
  for (const { id, state, hasPayload } of history.records) {
    if (!hasPayload) report(`${id} is ${state} and has no payload`)
  }
}
