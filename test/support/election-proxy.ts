// A proxy in front of a MongoDB server that plays elections of a replica set. It refuses commands
// as a primary does that steps down, ends connections, lets a write be rolled back, and responds to
// a majority read with older data. The driver sees a replica set of one member, which is primary,
// then secondary for a moment, and primary again.
import { once } from 'node:events'
import { connect, createServer, type Socket } from 'node:net'
import { BSON, type Document } from 'mongodb'
import { databaseUrl } from './mongo.ts'
import { freePort } from './mongo-server.ts'
import {
  answeredIdOf,
  answerTo,
  commandIn,
  requestIdOf,
  splitMessages,
  withBody,
} from './wire-messages.ts'

/** Codes from github.com/mongodb/mongo, src/mongo/base/error_codes.yml. */
const STATE_CHANGES = {
  NotWritablePrimary: 10_107,
  PrimarySteppedDown: 189,
  InterruptedDueToReplStateChange: 11_602,
} as const

type StateChange = keyof typeof STATE_CHANGES

export type Fault =
  /** The connection ends before the server has the command. */
  | { kind: 'cut' }
  /** The server executes the command, and the connection ends before the response. */
  | { kind: 'unanswered'; atWrite?: AtWrite }
  /** The command is not executed. */
  | { kind: 'refused'; by: StateChange }
  /** The write is executed and kept. The response says that no majority confirmed it. */
  | { kind: 'unconfirmed'; by: StateChange; atWrite?: AtWrite }
  /**
   * Like `unconfirmed`, but no majority got the write, and it is rolled back.
   *
   * @param remember called before the write; it returns a function that undoes the write
   */
  | { kind: 'rolled_back'; by: StateChange; remember: () => Promise<() => Promise<void>> }
  /** Majority reads get their results from this database of the same server. */
  | { kind: 'old_read'; database: string }

/**
 * The fault happens only if the command has written a document, and then only if this returns true.
 */
type AtWrite = () => boolean

export interface ElectionProxy {
  /** The URL of the same database, through the proxy. */
  url: string
  /**
   * Decides what happens to a request, by the id that the driver gave it; null: it is passed on.
   */
  decide: (requestId: number, message: Buffer) => Fault | null
  /** How long an election lasts if a fault begins it. */
  electionMs: number
  /** The report of the server about itself, as the proxy changes it. */
  hello: Document
  /**
   * Begins an election: commands are refused until the member is primary again. Writes in progress
   * are executed, and their responses say that they are not confirmed. After a crash there are no
   * responses.
   */
  stepDown(forMs: number, isCrash: boolean): void
  stop(): Promise<void>
}

const SET_NAME = 'elections'
const SHORT_ELECTION_MS = 5
/** The driver checks the member at once after an error, so that tests need not wait. */
const AT_ONCE = 'heartbeatFrequencyMS=500&minHeartbeatFrequencyMS=1'
/**
 * With another mode the server would have to report a change to the driver, and this proxy would
 * have to send that report.
 */
const POLLING = 'serverMonitoringMode=poll'

/** @param monitoring options of the driver for the checks of the member */
export async function startElectionProxy(
  targetUrl: string,
  monitoring = AT_ONCE,
): Promise<ElectionProxy> {
  const { hostname, port: targetPort, pathname } = new URL(targetUrl)
  const sockets = new Set<Socket>()
  const member = createMember()
  const proxy: Pick<ElectionProxy, 'decide' | 'electionMs' | 'hello'> = {
    decide: () => null,
    electionMs: SHORT_ELECTION_MS,
    hello: {},
  }
  const stepDown = (forMs: number, isCrash: boolean) => {
    member.stepDown(forMs)
    if (isCrash) for (const socket of sockets) socket.destroy()
  }
  const server = createServer((client) => {
    const upstream = connect(Number(targetPort), hostname)
    /** How a response is changed, by the id of its request; null: it is dropped. */
    const pending = new Map<number, (answer: Buffer) => Buffer | null | Promise<Buffer | null>>()
    for (const socket of [client, upstream]) {
      sockets.add(socket)
      socket.setNoDelay(true)
      socket.on('error', () => {})
      socket.on('close', () => {
        sockets.delete(socket)
        client.destroy()
        upstream.destroy()
      })
    }
    /** Returns the response to a command that was sent in this term. */
    const interruptedSince = (term: number, command: Document) => (answer: Buffer) => {
      if (member.term === term) return answer
      const isRetryable = 'txnNumber' in command
      const by = 'InterruptedDueToReplStateChange'
      if ('writeConcern' in command) return member.unconfirmed(answer, by, isRetryable)
      return answerTo(answeredIdOf(answer), member.refusal(by, isRetryable))
    }
    const play = async (fault: Fault, message: Buffer, command: Document) => {
      const id = requestIdOf(message)
      const isRetryable = 'txnNumber' in command
      const otherwise = interruptedSince(member.term, command)
      switch (fault.kind) {
        case 'cut':
          return stepDown(proxy.electionMs, true)
        case 'unanswered':
          pending.set(id, (answer) => {
            if (!isMet(fault, answer)) return otherwise(answer)
            stepDown(proxy.electionMs, true)
            return null
          })
          return upstream.write(message)
        case 'refused':
          member.stepDown(proxy.electionMs)
          return client.write(answerTo(id, member.refusal(fault.by, isRetryable)))
        case 'unconfirmed':
          pending.set(id, (answer) => {
            if (!isMet(fault, answer)) return otherwise(answer)
            member.stepDown(proxy.electionMs)
            return member.unconfirmed(answer, fault.by, isRetryable)
          })
          return upstream.write(message)
        case 'rolled_back': {
          const undo = await fault.remember()
          pending.set(id, async (answer) => {
            await undo()
            member.stepDown(proxy.electionMs)
            return member.unconfirmed(answer, fault.by, isRetryable)
          })
          // Without its number, the write leaves no record by which the server would recognize its
          // repetition.
          return upstream.write(withBody(message, withoutNumber(command)))
        }
        case 'old_read':
          return upstream.write(withBody(message, { ...command, $db: fault.database }))
        default:
          throw new Error(`unknown fault ${fault satisfies never}`)
      }
    }
    client.on(
      'data',
      splitMessages((message) => {
        const command = commandIn(message)
        if (command === null || isHello(command)) {
          pending.set(requestIdOf(message), (answer) => {
            const document = commandIn(answer) as Document
            const hello = member.helloOf(document, `127.0.0.1:${ownPort}`)
            return withBody(answer, { ...hello, ...proxy.hello })
          })
          upstream.write(message)
          return
        }
        const fault = proxy.decide(requestIdOf(message), message)
        if (fault !== null) return void play(fault, message, command)
        if (member.isPrimary() || 'endSessions' in command) {
          pending.set(requestIdOf(message), interruptedSince(member.term, command))
          return void upstream.write(message)
        }
        const refusal = member.refusal('NotWritablePrimary', 'txnNumber' in command)
        client.write(answerTo(requestIdOf(message), refusal))
      }),
    )
    upstream.on(
      'data',
      splitMessages(async (answer) => {
        const change = pending.get(answeredIdOf(answer))
        pending.delete(answeredIdOf(answer))
        const changed = change === undefined ? answer : await change(answer)
        if (changed !== null) client.write(changed)
      }),
    )
  })
  const ownPort = await freePort()
  server.listen(ownPort, '127.0.0.1')
  await once(server, 'listening')
  const own = databaseUrl(`mongodb://127.0.0.1:${ownPort}`, pathname.slice(1))
  return Object.assign(proxy, {
    url: `${own}?replicaSet=${SET_NAME}&${POLLING}&${monitoring}`,
    stepDown,
    async stop() {
      for (const socket of sockets) socket.destroy()
      server.close()
      await once(server, 'close')
    },
  })
}

/** Responds to the driver's `hello` as the only member of the replica set. */
function createMember() {
  const processId = new BSON.ObjectId()
  let counter = 0
  let term = 1
  let primaryFromMs = Number.NEGATIVE_INFINITY
  const isPrimary = () => performance.now() >= primaryFromMs
  // The counter grows with each change that the driver must see.
  const topologyVersion = () => ({
    processId,
    counter: BSON.Long.fromNumber(counter + (isPrimary() ? 1 : 0)),
  })
  const stepDown = (forMs: number) => {
    counter += 2
    term += 1
    primaryFromMs = performance.now() + forMs
  }
  // Errors after which the driver may repeat the command get the label
  // (src/mongo/db/error_labels.cpp).
  const labels = (isRetryable: boolean) =>
    isRetryable ? { errorLabels: ['RetryableWriteError'] } : {}
  const errorOf = (by: StateChange) => ({
    ...{ code: STATE_CHANGES[by], codeName: by, errmsg: `played by the test: ${by}` },
  })
  return {
    get term() {
      return term
    },
    isPrimary,
    stepDown,
    /** The response to a command that is not executed. */
    refusal(by: StateChange, isRetryable: boolean): Document {
      const error = { ok: 0, ...errorOf(by), ...labels(isRetryable) }
      return { ...error, topologyVersion: topologyVersion() }
    },
    /** The response to a write that no majority confirmed before the member stepped down. */
    unconfirmed(answer: Buffer, by: StateChange, isRetryable: boolean): Buffer {
      const fields = { ...labels(isRetryable), topologyVersion: topologyVersion() }
      const written = commandIn(answer)
      return withBody(answer, { ...written, writeConcernError: errorOf(by), ...fields })
    },
    helloOf(document: Document, address: string): Document {
      const { primary, ismaster, isWritablePrimary, secondary, ...rest } = document
      const role = ismaster === undefined ? 'isWritablePrimary' : 'ismaster'
      return {
        ...rest,
        ...{ [role]: isPrimary(), secondary: !isPrimary(), topologyVersion: topologyVersion() },
        ...{ hosts: [address], me: address, setName: SET_NAME, setVersion: 1 },
        ...(isPrimary() ? { primary: address, electionId: electionIdOf(term) } : {}),
      }
    },
  }
}

function isMet({ atWrite }: { atWrite?: AtWrite }, answer: Buffer): boolean {
  if (atWrite === undefined) return true
  return Number(commandIn(answer)?.n) > 0 && atWrite()
}

/** The id grows with the term, as on a real server. */
function electionIdOf(term: number) {
  return new BSON.ObjectId(`7fffffff${term.toString(16).padStart(16, '0')}`)
}

function isHello(command: Document): boolean {
  return 'hello' in command || 'ismaster' in command || 'isMaster' in command
}

function withoutNumber({ txnNumber, ...command }: Document): Document {
  return command
}
