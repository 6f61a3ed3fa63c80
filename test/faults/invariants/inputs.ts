// I20: the inputs of a job are the results that it needs, byte for byte, at every attempt.
import type { Delivery, NeedFacts } from '../history.ts'
import { numberText, resultText } from '../work-payload.ts'
import { called, effectOf, type Facts, type Report } from './facts.ts'

export function checkInputs(facts: Facts, report: Report): void {
  const needsOf = new Map<string, NeedFacts[]>()
  for (const call of facts.history.calls) {
    const { kind, jobId, needs } = call
    if (kind === 'enqueue' && jobId !== null && effectOf(call) === 'done') needsOf.set(jobId, needs)
  }
  for (const delivery of facts.history.deliveries) {
    const needs = needsOf.get(delivery.jobId)
    if (needs === undefined) continue
    const expected = inputsText(needs)
    if (delivery.inputs !== expected) {
      report(`${called(delivery)} brought the inputs ${delivery.inputs}, not ${expected}`)
    }
    for (const need of needs) checkOrder(facts, delivery, need, report)
  }
}

function inputsText(needs: NeedFacts[]): string | null {
  if (needs.length === 0) return null
  const inputs = needs.map(({ name, workNumber, isPart }) => {
    return `"${name}":${isPart ? numberText(workNumber) : resultText(workNumber)}`
  })
  return `{${inputs.join(',')}}`
}

/** The needed job had a full 2xx before. */
function checkOrder(
  { jobs }: Facts,
  delivery: Delivery,
  { jobId }: NeedFacts,
  report: Report,
): void {
  const isBefore = (jobs.get(jobId)?.deliveries ?? []).some(
    ({ status, answeredAtMs }) =>
      status === 200 && answeredAtMs !== null && answeredAtMs < delivery.beganAtMs,
  )
  if (!isBefore) report(`${called(delivery)} came before ${jobId}, which it needs, had succeeded`)
}
