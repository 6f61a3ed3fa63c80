// The steps of an invoice: a PDF, an e-invoice, an e-way bill with its number, an e-mail with both,
// and the accounts. The API, the worker or the handler is killed at the boundary of a step. Each
// invoice is a group, so the checker also counts its final notice (I19).
import { until } from '../../support/until.ts'
import type { Fixture, Member } from '../fixture.ts'
import type { Delivery } from '../history.ts'
import { BOTH, type Round } from '../round.ts'
import { type Accepted, untilSucceeded, type WorkRequest } from '../work-client.ts'
import type { Reply } from '../work-receiver.ts'

/** Each is an endpoint, too. */
const STEPS = ['pdf', 'e-invoice', 'e-way-bill', 'mail', 'accounts'] as const
type Step = (typeof STEPS)[number]
const VICTIMS = ['API', 'worker', 'handler'] as const
type Victim = (typeof VICTIMS)[number]
/** Before the response: the attempt is lost. After it: its outcome may be lost. */
const MOMENTS = ['before', 'after'] as const
/** So that each step and each victim occurs. */
const SHORT_FLOWS = STEPS.length
const LONG_FLOWS = { sqlite: 200, mongo: 60 }
const LEASE_MS = 1_500
const DEADLINE_MS = 120_000

const killed = (victim: Victim) => `${victim} killed at the boundary of a step`
const atBoundary = (step: Step) => `a process killed at the boundary of ${step}`

export const flows: Round = {
  name: 'flows',
  title: 'kill −9 of API, worker and handler at the boundary of each step of a flow',
  engines: BOTH,
  settings: { leaseMs: LEASE_MS, sweepMs: 100, pollMs: 50 },
  windows: [...VICTIMS.map(killed), ...STEPS.map(atBoundary)],
  async play(fixture, { isLong }) {
    for (const name of ['told', ...STEPS]) await fixture.register(name)
    const breaking = startBreaking(fixture, await fixture.startWorker())
    const groups: string[] = []
    for (let i = 0; i < (isLong ? LONG_FLOWS[fixture.engine] : SHORT_FLOWS); i++) {
      const step = STEPS[i % STEPS.length] as Step
      const victim = VICTIMS[i % VICTIMS.length] as Victim
      const broken = breaking.next({ step, victim, moment: fixture.random.pick(MOMENTS) })
      groups.push(await startFlow(fixture))
      await broken()
    }
    await until(async () => {
      const found = await Promise.all(
        groups.map((id) => fixture.client.request('GET', `/groups/${id}`)),
      )
      return found.every((answer) => answer?.body?.state === 'succeeded')
    }, DEADLINE_MS)
    await fixture.drained()
  },
}

interface Plan {
  step: Step
  victim: Victim
  moment: (typeof MOMENTS)[number]
}

/** Kills one process at a time, at the next delivery of the step that the plan names. */
function startBreaking(fixture: Fixture, first: Member) {
  let worker = first
  let wanted: Plan | null = null
  let done: Promise<void> | null = null

  async function kill(victim: Victim): Promise<void> {
    if (victim === 'API') {
      await fixture.kill(fixture.api())
      await fixture.startApi()
    }
    if (victim === 'worker') {
      await fixture.kill(worker)
      worker = await fixture.startWorker()
    }
  }

  fixture.receiver.answerWith((delivery: Delivery): Reply | undefined | Promise<undefined> => {
    if (wanted === null || wanted.step !== delivery.endpoint) return undefined
    const { victim, step, moment } = wanted
    wanted = null
    fixture.hit(killed(victim))
    fixture.hit(atBoundary(step))
    if (victim === 'handler') {
      done = Promise.resolve()
      return moment === 'before' ? 'reset' : undefined
    }
    if (moment === 'after') {
      done = until(() => delivery.answeredAtMs !== null).then(() => kill(victim))
      return undefined
    }
    done = kill(victim)
    return done.then(() => undefined)
  })

  return {
    /** Returns what waits until the process was killed and started again. */
    next(plan: Plan) {
      done = null
      wanted = plan
      return async () => {
        await until(() => done !== null, DEADLINE_MS)
        await done
      }
    },
  }
}

/** Returns the id of the group. */
async function startFlow({ client, random }: Fixture): Promise<string> {
  const onFinish = { endpoint: 'told', when: 'all_final' }
  const key = { 'idempotency-key': `flow-${random.between(0, Number.MAX_SAFE_INTEGER)}` }
  const { body } = await untilSucceeded(() => client.request('POST', '/groups', { onFinish }, key))
  const enqueue = (endpoint: Step, needed: WorkRequest['needed'], dependsOn: Accepted[] = []) =>
    client.enqueue({
      ...{ endpoint, needed: needed ?? {} },
      fields: { group: body.id, dependsOn: dependsOn.map(({ id }) => id) },
    })
  const all = ({ id, workNumber }: Accepted) => ({ jobId: id, workNumber, isPart: false })
  const numberOf = (job: Accepted) => ({ ...all(job), isPart: true })

  const pdf = await enqueue('pdf', {})
  const eInvoice = await enqueue('e-invoice', {})
  const bill = await enqueue('e-way-bill', { irn: numberOf(eInvoice) })
  const mail = await enqueue('mail', { pdf: all(pdf), bill: all(bill), irn: numberOf(eInvoice) })
  await enqueue('accounts', { irn: numberOf(eInvoice) }, [mail])
  await untilSucceeded(() => client.request('POST', `/groups/${body.id}/close`))
  return body.id
}
