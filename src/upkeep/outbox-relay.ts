// Turns the documents of an outbox into jobs. Two relays may run at once: each holds the documents
// that it takes.
// A relay first stores the jobs, each under the origin key of its document, then removes the
// documents. If it dies between these steps, the next relay finds that the jobs exist already.
import type { Logger } from 'pino'
import { createBatchSize } from '../batch-size.ts'
import { AppError } from '../errors.ts'
import type { NewJob } from '../job/job.ts'
import { hintedPollMs, PollLoop } from '../loop.ts'
import {
  OUTBOX_HOLD_MS,
  type Outbox,
  type RefusedDocument,
  type TakenDocument,
} from '../store/outbox.ts'
import type { EnqueueResult, Store } from '../store/store.ts'

/** Limit of documents taken and moved together; a slow store gets fewer. */
const MAX_TAKEN = 100
/** Half of the hold. A write that is sent within this time may take the other half. */
const SURE_OF_HOLD_MS = OUTBOX_HOLD_MS / 2
const BACK_OFF = { firstMs: 100, maxMs: 2_000 }
/**
 * The relay is idle when it has moved nothing for this long. No hint tells that a hold has ended:
 * by then, those of a relay that died before this one began have.
 */
const IDLE_AFTER_MS = 2 * OUTBOX_HOLD_MS

/** Loaded on demand: the schemas take 20 MB, which a worker without an outbox does not need. */
const loadWire = () => import('../wire/jobs.ts')

interface Parts {
  store: Pick<Store, 'clock' | 'enqueue'>
  outbox: Outbox
  maxBodyBytes: number
  pollIntervalMs: number
  onMoved: (counts: { moved: number; setAside: number }) => void
  log: Logger
}

/** A document with the job that it becomes. */
interface ParsedDocument {
  document: TakenDocument
  job: NewJob
}

interface ParsedDocuments {
  valid: ParsedDocument[]
  refused: RefusedDocument[]
}

interface HeldDocuments {
  taken: TakenDocument[]
  /**
   * By the monotonic clock. A relay that was stopped or slow until after this time may no longer
   * hold the documents: another relay may have taken them.
   */
  sureUntilMs: number
}

const countOf = ({ length }: unknown[]) => length

/** Moves documents from start() to stop(). */
export class OutboxRelay {
  readonly #parts: Parts
  readonly #size = createBatchSize(MAX_TAKEN)
  readonly #loop: PollLoop
  /** Documents that were taken and are not moved yet: after a failure their move is retried. */
  #held: HeldDocuments = { taken: [], sureUntilMs: 0 }
  #stopListening = () => {}
  /** By the monotonic clock: the start, or the last move or failure. */
  #busyAtMs = 0

  constructor(parts: Parts) {
    this.#parts = parts
    const report = (err: unknown) => {
      this.#busyAtMs = performance.now()
      parts.log.warn({ err }, 'outbox.failed')
    }
    this.#loop = new PollLoop({
      turn: () => this.#moveAndRest(),
      onFailure: { backOff: BACK_OFF, report },
    })
  }

  start(): void {
    this.#busyAtMs = performance.now()
    this.#stopListening = this.#parts.outbox.onDocument(() => this.#loop.wake())
    this.#loop.start()
  }

  /** Resolves when no write is in progress. */
  async stop(): Promise<void> {
    this.#stopListening()
    await this.#loop.stop()
  }

  /** The rest before the next look, in ms. */
  async #moveAndRest(): Promise<number> {
    const { outbox, pollIntervalMs } = this.#parts
    if ((await this.#moveSome()) > 0) {
      this.#busyAtMs = performance.now()
      return 0
    }
    const isIdle = performance.now() - this.#busyAtMs > IDLE_AFTER_MS
    return isIdle && outbox.hintsAtAllDocuments ? hintedPollMs(pollIntervalMs) : pollIntervalMs
  }

  /** Returns how many documents left the outbox. */
  async #moveSome(): Promise<number> {
    const { outbox } = this.#parts
    if (this.#held.taken.length === 0 || performance.now() > this.#held.sureUntilMs) {
      const sureUntilMs = performance.now() + SURE_OF_HOLD_MS
      const { limit } = this.#size
      const taken = await this.#size.run(limit, () => outbox.take(limit), countOf)
      this.#held = { taken, sureUntilMs }
    }
    const { taken, sureUntilMs } = this.#held
    // After a failure fewer documents are moved at a time.
    const some = taken.slice(0, this.#size.limit)
    if (some.length === 0) return 0
    const parsed = await this.#parse(some)
    if (performance.now() > sureUntilMs) return 0
    const movedCount = await this.#size.run(some.length, () => this.#move(parsed))
    this.#held.taken = taken.slice(some.length)
    return movedCount
  }

  async #move({ valid, refused }: ParsedDocuments): Promise<number> {
    const { store, outbox, log, onMoved } = this.#parts
    const { enqueueRefusal } = await loadWire()
    const results = valid.length === 0 ? [] : await store.enqueue(valid.map(({ job }) => job))
    const stored: TakenDocument[] = []
    const setAside = [...refused]
    for (const [i, { document, job }] of valid.entries()) {
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

  async #parse(taken: TakenDocument[]): Promise<ParsedDocuments> {
    const { store, maxBodyBytes } = this.#parts
    const { jobFromOutbox } = await loadWire()
    const now = store.clock.now()
    const valid: ParsedDocument[] = []
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
        valid.push({ document, job: { ...job, id, originKey, originHash: request.hash } })
      } catch (error) {
        if (!(error instanceof AppError)) throw error
        refused.push({ document, reason: error.code, message: error.message })
      }
    }
    return { valid, refused }
  }
}
