// Makes jobs of the documents of an outbox. Any number of movers may run: each holds what it takes.
//
// First the jobs are stored, each under the origin that its document gives it, then the documents
// are removed. Who dies between the two leaves documents that the next one finds jobs of.
import type { Logger } from 'pino'
import { createBatchSize } from '../batch-size.ts'
import { AppError } from '../errors.ts'
import type { NewJob } from '../job/job.ts'
import { PollLoop } from '../loop.ts'
import {
  OUTBOX_HOLD_MS,
  type Outbox,
  type RefusedDocument,
  type TakenDocument,
} from '../store/outbox.ts'
import type { EnqueueResult, Store } from '../store/store.ts'

/** Documents taken and moved at once; fewer of a store that is too slow for so many. */
const MAX_TAKEN = 100
/** A store may take as long again to write what it was sent in time. */
const SURE_OF_HOLD_MS = OUTBOX_HOLD_MS / 2
const BACK_OFF = { firstMs: 100, maxMs: 2_000 }

/**
 * Loaded when it is needed: the schemas take 20 MB, which a worker without an outbox does not
 * need.
 */
const loadWire = () => import('../wire/jobs.ts')

interface Parts {
  store: Pick<Store, 'clock' | 'enqueue'>
  outbox: Outbox
  maxBodyBytes: number
  pollIntervalMs: number
  onMoved: (counts: { moved: number; setAside: number }) => void
  log: Logger
}

/** A document with the job that it is to become. */
interface Asked {
  document: TakenDocument
  job: NewJob
}

interface Judged {
  asked: Asked[]
  refused: RefusedDocument[]
}

interface InHand {
  taken: TakenDocument[]
  /** Monotonic. Who was stopped or slow for longer may no longer hold them: others see to them. */
  sureUntilMs: number
}

const countOf = ({ length }: unknown[]) => length

/** Moves from start() to stop(). */
export class OutboxRelay {
  readonly #parts: Parts
  readonly #size = createBatchSize(MAX_TAKEN)
  readonly #loop: PollLoop
  /** Documents that were taken and are not moved yet: after a failure they are tried again. */
  #inHand: InHand = { taken: [], sureUntilMs: 0 }
  #stopListening = () => {}

  constructor(parts: Parts) {
    this.#parts = parts
    const report = (err: unknown) => parts.log.warn({ err }, 'outbox.failed')
    this.#loop = new PollLoop({
      turn: async () => ((await this.#moveSome()) === 0 ? parts.pollIntervalMs : 0),
      onFailure: { backOff: BACK_OFF, report },
    })
  }

  start(): void {
    this.#stopListening = this.#parts.outbox.onDocument(() => this.#loop.wake())
    this.#loop.start()
  }

  /** Resolves when no write is under way. */
  async stop(): Promise<void> {
    this.#stopListening()
    await this.#loop.stop()
  }

  /** How many documents are gone from the outbox. */
  async #moveSome(): Promise<number> {
    const { outbox } = this.#parts
    if (this.#inHand.taken.length === 0 || performance.now() > this.#inHand.sureUntilMs) {
      const sureUntilMs = performance.now() + SURE_OF_HOLD_MS
      const { limit } = this.#size
      const taken = await this.#size.run(limit, () => outbox.take(limit), countOf)
      this.#inHand = { taken, sureUntilMs }
    }
    const { taken, sureUntilMs } = this.#inHand
    // After a failure fewer of them at a time.
    const some = taken.slice(0, this.#size.limit)
    if (some.length === 0) return 0
    const judged = await this.#judge(some)
    if (performance.now() > sureUntilMs) return 0
    const goneCount = await this.#size.run(some.length, () => this.#move(judged))
    this.#inHand.taken = taken.slice(some.length)
    return goneCount
  }

  async #move({ asked, refused }: Judged): Promise<number> {
    const { store, outbox, log, onMoved } = this.#parts
    const { enqueueRefusal } = await loadWire()
    const results = asked.length === 0 ? [] : await store.enqueue(asked.map(({ job }) => job))
    const stored: TakenDocument[] = []
    const setAside = [...refused]
    for (const [i, { document, job }] of asked.entries()) {
      const refusal = enqueueRefusal(results[i] as EnqueueResult, job)
      if (refusal === null) stored.push(document)
      else setAside.push({ document, reason: refusal.code, message: refusal.message })
    }
    const counts = {
      moved: await outbox.remove(stored),
      setAside: await outbox.setAside(setAside),
    }
    onMoved(counts)
    log.info(counts, 'outbox.moved')
    return counts.moved + counts.setAside
  }

  async #judge(taken: TakenDocument[]): Promise<Judged> {
    const { store, maxBodyBytes } = this.#parts
    const { jobFromOutbox } = await loadWire()
    const now = store.clock.now()
    const asked: Asked[] = []
    const refused: RefusedDocument[] = []
    for (const document of taken) {
      const { request, originKey, jobId } = document
      if (request.kind === 'unreadable') {
        refused.push({ document, reason: 'invalid_request', message: request.message })
        continue
      }
      try {
        const job = jobFromOutbox(request.bytes, maxBodyBytes, now)
        const id = jobId ?? job.id
        asked.push({ document, job: { ...job, id, originKey, originHash: request.hash } })
      } catch (error) {
        if (!(error instanceof AppError)) throw error
        refused.push({ document, reason: error.code, message: error.message })
      }
    }
    return { asked, refused }
  }
}
