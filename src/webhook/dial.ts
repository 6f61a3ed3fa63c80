// Opens a connection, only to an address that the policy allows: undici's own connector resolves
// names without a check. A name is resolved once, the policy checks each of its addresses, and
// exactly these addresses are dialled.
import { X509Certificate } from 'node:crypto'
import { type LookupAddress, lookup } from 'node:dns'
import { connect as connectTcp, isIP, type Socket } from 'node:net'
import {
  connect as connectTls,
  createSecureContext,
  getCACertificates,
  type SecureContext,
  type TLSSocket,
} from 'node:tls'
import type { AddressPolicy } from './address-policy.ts'
import { AddressRefused, HandshakeFailed } from './outcome.ts'

export interface Target {
  /** As in a URL, but an IPv6 address has no brackets. */
  hostname: string
  port: number
  isTls: boolean
}

type Dialled = (...result: [error: Error, socket: null] | [error: null, socket: Socket]) => void

/**
 * Starts to connect and returns a function that stops it. `done` is called once, when the
 * connection is open (with TLS: and verified) or has failed. It is not called after a stop.
 */
export type Dial = (target: Target, done: Dialled) => () => void

/**
 * RFC 8305: with several addresses, the next try begins when a try fails, or this long after it
 * began. Earlier tries continue, so that a server far away is reached as well. Node itself would
 * stop the try of each address after this time.
 */
const NEXT_ADDRESS_MS = 250
/** Limit of addresses of one name that are tried. */
const MAX_ADDRESSES = 8

/**
 * A handler may work silently for minutes. These probes keep a NAT on the way from dropping the
 * connection.
 */
const TCP_KEEP_ALIVE_MS = 60_000

/** Limit of TLS sessions kept for a shorter handshake, the last one of each target. */
const MAX_TLS_SESSIONS = 1_000

/** @param secureContext with additional root certificates; undefined: the default ones */
export function createDial(
  policy: () => AddressPolicy,
  secureContext: SecureContext | undefined,
  resolve: Resolve,
): Dial {
  const sessions = new Map<string, Buffer>()

  return (target, done) => {
    const { hostname, port, isTls } = target
    const { judgeAddress } = policy()
    const check = (ip: string) => judgeAddress(ip, port, hostname)
    let isGivenUp = false
    let giveUp = () => {}

    const fail = (error: Error) => {
      if (!isGivenUp) done(error, null)
    }
    const secure = (tcp: Socket) => {
      const key = `${hostname}:${port}`
      const session = sessions.get(key)
      const socket = connectTls({
        ...tlsOptions(hostname, secureContext, session),
        socket: tcp,
      })
      socket.on('session', (fresh: Buffer) => remember(sessions, key, fresh))
      giveUp = () => socket.destroy()
      awaitHandshake(socket, done)
    }
    checkedAddresses(hostname, resolve, check, (error, addresses) => {
      if (isGivenUp) return
      if (error !== null) return fail(error)
      giveUp = race(addresses, port, (raceError, socket) => {
        if (raceError !== null) return fail(raceError)
        const verdict = check(socket.remoteAddress ?? '')
        if (!verdict.allowed) {
          socket.destroy()
          return fail(new AddressRefused(verdict.reason))
        }
        if (isTls) secure(socket)
        else done(null, socket)
      })
    })
    return () => {
      isGivenUp = true
      giveUp()
    }
  }
}

/** Resolves a name to all its addresses. */
export type Resolve = (
  hostname: string,
  done: (error: Error | null, addresses: LookupAddress[]) => void,
) => void

/**
 * Sends one query at a time for each name. The system resolver has four threads for the whole
 * process, and a name that hangs must not take them all.
 */
export function createResolver(ask: Resolve = askSystem): Resolve {
  const waitingByName = new Map<string, Parameters<Resolve>[1][]>()
  return (hostname, done) => {
    const waiting = waitingByName.get(hostname)
    if (waiting !== undefined) {
      waiting.push(done)
      return
    }
    const all = [done]
    waitingByName.set(hostname, all)
    ask(hostname, (error, addresses) => {
      waitingByName.delete(hostname)
      for (const notify of all) notify(error, addresses)
    })
  }
}

function askSystem(hostname: string, done: Parameters<Resolve>[1]): void {
  lookup(hostname, { all: true }, done)
}

/** @throws Error, one sentence, if the text has no certificate or an invalid one */
export function secureContextWith(extraCaCerts: string): SecureContext {
  // Node accepts a text without any certificate and reports no error.
  const certificates = extraCaCerts.match(PEM_CERTIFICATE) ?? []
  const begun = extraCaCerts.match(PEM_BEGIN)?.length ?? 0
  const areWhole = certificates.length === begun && certificates.every(isCertificate)
  if (begun === 0 || !areWhole) {
    throw new Error('EXTRA_CA_CERTS must contain complete certificates in PEM form')
  }
  return createSecureContext({ ca: [...getCACertificates('default'), ...certificates] })
}

/**
 * This pattern also matches kinds of certificates that are not read here, so that none is ignored
 * silently.
 */
const PEM_BEGIN = /-----BEGIN [A-Z0-9 ]*CERTIFICATE-----/g
const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g

function isCertificate(pem: string): boolean {
  try {
    return new X509Certificate(pem).raw.length > 0
  } catch {
    return false
  }
}

/** Tries the addresses in turn, keeps the connection that opens first, and destroys the others. */
function race(addresses: LookupAddress[], port: number, done: Dialled): () => void {
  const sockets = new Set<Socket>()
  const errors: Error[] = []
  let triedCount = 0
  let timer: NodeJS.Timeout | undefined

  function begin(): void {
    clearTimeout(timer)
    const { address: host } = addresses[triedCount++] as LookupAddress
    const socket = connectTcp({ host, port, noDelay: true })
    socket.setKeepAlive(true, TCP_KEEP_ALIVE_MS)
    sockets.add(socket)
    socket.once('connect', () => {
      sockets.delete(socket)
      stop()
      done(null, socket)
    })
    socket.on('error', (error) => {
      // A socket that is connected or was destroyed is not in the set: its errors are handled
      // elsewhere.
      if (sockets.delete(socket)) fail(error)
    })
    if (triedCount < addresses.length) timer = setTimeout(begin, NEXT_ADDRESS_MS)
  }

  function fail(error: Error): void {
    errors.push(error)
    if (triedCount < addresses.length) begin()
    else if (sockets.size === 0) done(mostSpecific(errors), null)
  }

  function stop(): void {
    clearTimeout(timer)
    const rest = [...sockets]
    sockets.clear()
    for (const socket of rest) socket.destroy()
  }

  begin()
  return stop
}

/**
 * Prefers errors of the server. An error about this machine, such as a missing IPv6 route, says
 * less.
 */
function mostSpecific(errors: Error[]): Error {
  const found = errors.find((error) => !NO_ROUTE.has((error as NodeJS.ErrnoException).code ?? ''))
  return found ?? (errors[0] as Error)
}

const NO_ROUTE = new Set(['ENETUNREACH', 'EADDRNOTAVAIL', 'EAFNOSUPPORT'])

function awaitHandshake(socket: TLSSocket, done: Dialled): void {
  let isDone = false
  socket.once('secureConnect', () => {
    if (isDone) return
    isDone = true
    done(null, socket)
  })
  socket.on('error', (error) => {
    // With TLS 1.3 a server that requires a client certificate reports it only after the handshake.
    // Its alert does not end the socket, so the socket is destroyed here: a later error would say
    // less.
    if (isDone && socket.readableLength === 0) socket.destroy(error)
    if (isDone) return
    isDone = true
    socket.destroy()
    done(isReset(error) ? error : new HandshakeFailed(error), null)
  })
}

function isReset(error: NodeJS.ErrnoException): boolean {
  return error.code === 'ECONNRESET' || error.code === 'EPIPE'
}

function tlsOptions(
  hostname: string,
  secureContext: SecureContext | undefined,
  session: Buffer | undefined,
) {
  return {
    // The certificate must match this name. The name is not dialled, because `socket` is given.
    host: hostname,
    ALPNProtocols: ['http/1.1'],
    rejectUnauthorized: true,
    // RFC 6066 requires the name without its trailing dot, and no server name for an address.
    ...(isIP(hostname) === 0 ? { servername: hostname.replace(/\.$/, '') } : {}),
    ...(secureContext === undefined ? {} : { secureContext }),
    ...(session === undefined ? {} : { session }),
  }
}

function remember(sessions: Map<string, Buffer>, key: string, session: Buffer): void {
  if (sessions.size >= MAX_TLS_SESSIONS && !sessions.has(key)) sessions.clear()
  sessions.set(key, session)
}

/**
 * Resolves a name and checks its addresses. One refused address refuses the name: otherwise a name
 * with changing addresses could be tried until the policy allows one.
 */
function checkedAddresses(
  hostname: string,
  resolve: Resolve,
  check: (ip: string) => ReturnType<AddressPolicy['judgeAddress']>,
  done: (
    ...result: [error: Error, addresses: null] | [error: null, addresses: LookupAddress[]]
  ) => void,
): void {
  const family = isIP(hostname)
  const take = (error: Error | null, addresses: LookupAddress[]) => {
    if (error !== null) return done(error, null)
    if (addresses.length === 0) return done(noAddress(hostname), null)
    for (const { address } of addresses) {
      const verdict = check(address)
      if (!verdict.allowed) return done(new AddressRefused(verdict.reason), null)
    }
    done(null, alternating(addresses).slice(0, MAX_ADDRESSES))
  }
  if (family === 0) resolve(hostname, take)
  else queueMicrotask(() => take(null, [{ address: hostname, family }]))
}

/**
 * Alternates between IPv4 and IPv6 (RFC 8305): if one of them has no route, the other is tried
 * second.
 */
function alternating(addresses: LookupAddress[]): LookupAddress[] {
  const [first] = addresses
  const own = addresses.filter(({ family }) => family === first?.family)
  const other = addresses.filter(({ family }) => family !== first?.family)
  const most = Math.max(own.length, other.length)
  return Array.from({ length: most }, (_, i) => [own[i], other[i]])
    .flat()
    .filter((address) => address !== undefined)
}

function noAddress(hostname: string): Error {
  return Object.assign(new Error(`${hostname} has no address`), { code: 'ENOTFOUND' })
}
