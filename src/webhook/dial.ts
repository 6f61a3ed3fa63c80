// Opens a connection, but only to an address that the policy allows: undici's own connector
// resolves names without asking. The name is resolved once, every answer is judged, and what was
// judged is what is dialled.
import { X509Certificate } from 'node:crypto'
import { type LookupAddress, lookup } from 'node:dns'
import { connect as connectTcp, isIP, type LookupFunction, Socket } from 'node:net'
import {
  connect as connectTls,
  createSecureContext,
  getCACertificates,
  type SecureContext,
} from 'node:tls'
import type { AddressPolicy } from './address-policy.ts'
import { AddressRefused, HandshakeFailed } from './outcome.ts'

export interface Target {
  /** As a URL spells it, IPv6 without brackets. */
  hostname: string
  port: number
  isTls: boolean
}

export type Dialled = (error: Error | null, socket: Socket | null) => void

/**
 * Starts to connect and returns the socket at once, so that it can be destroyed meanwhile. `done`
 * is called once, when the connection stands (over TLS: is verified) or has failed; never when the
 * socket was destroyed by the caller.
 */
export type Dial = (target: Target, done: Dialled) => Socket

/** A handler may work silently for minutes: this keeps a NAT on the way from forgetting it. */
const TCP_KEEP_ALIVE_MS = 60_000

/** Sessions kept for a shorter handshake, the last of each target. */
const MAX_TLS_SESSIONS = 1_000

/** @param secureContext with further roots, or undefined for the default ones */
export function createDial(
  policy: () => AddressPolicy,
  secureContext: SecureContext | undefined,
  resolve: Resolve,
): Dial {
  const sessions = new Map<string, Buffer>()

  return (target, done) => {
    const { hostname, port, isTls } = target
    const judge = policy().judgeAddress
    // Neither undici nor Node asks a lookup for an address written as such.
    const verdict = isIP(hostname) === 0 ? null : judge(hostname, port, hostname)
    if (verdict?.allowed === false) return refuse(verdict.reason, done)
    const lookup = guardedLookup(resolve, (ip) => judge(ip, port, hostname))
    const address = { host: hostname, port, lookup, noDelay: true }
    const key = `${hostname}:${port}`
    const socket = isTls
      ? connectTls({
          ...address,
          ...tlsOptions(hostname, secureContext, sessions.get(key)),
        })
      : connectTcp(address)
    socket.setKeepAlive(true, TCP_KEEP_ALIVE_MS)
    if (isTls) socket.on('session', (session: Buffer) => remember(sessions, key, session))
    awaitConnection(socket, target, judge, done)
    return socket
  }
}

/** All addresses of a name. */
export type Resolve = (
  hostname: string,
  done: (error: Error | null, addresses: LookupAddress[]) => void,
) => void

/**
 * One question at a time for each name: the system resolver has four threads for the whole process,
 * and a name that hangs must not take them all.
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
      for (const tell of all) tell(error, addresses)
    })
  }
}

function askSystem(hostname: string, done: Parameters<Resolve>[1]): void {
  lookup(hostname, { all: true }, done)
}

/** @throws Error, one sentence, when the text holds no certificate or a broken one */
export function secureContextWith(extraCaCerts: string): SecureContext {
  // Node takes a text without any certificate for none, and says nothing.
  const certificates = extraCaCerts.match(PEM_CERTIFICATE) ?? []
  const begun = extraCaCerts.match(PEM_BEGIN)?.length ?? 0
  const areWhole = certificates.length === begun && certificates.every(isCertificate)
  if (begun === 0 || !areWhole) {
    throw new Error('EXTRA_CA_CERTS must hold certificates in PEM form, and each must be whole')
  }
  return createSecureContext({ ca: [...getCACertificates('default'), ...certificates] })
}

/** Of any certificate, also of the kinds that are not read here: none is left out silently. */
const PEM_BEGIN = /-----BEGIN [A-Z0-9 ]*CERTIFICATE-----/g
const PEM_CERTIFICATE = /-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g

function isCertificate(pem: string): boolean {
  try {
    return new X509Certificate(pem).raw.length > 0
  } catch {
    return false
  }
}

/** A socket that never connects; `done` is told after `dial` has returned it. */
function refuse(reason: string, done: Dialled): Socket {
  queueMicrotask(() => done(new AddressRefused(reason), null))
  return new Socket().destroy()
}

function awaitConnection(
  socket: Socket,
  target: Target,
  judge: AddressPolicy['judgeAddress'],
  done: Dialled,
): void {
  const { hostname, port, isTls } = target
  let isConnected = false
  let isDone = false

  function end(error: Error | null): void {
    if (isDone) return
    isDone = true
    if (error !== null) socket.destroy()
    done(error, error === null ? socket : null)
  }

  socket.once('connect', () => {
    isConnected = true
    const verdict = judge(socket.remoteAddress ?? '', port, hostname)
    if (!verdict.allowed) end(new AddressRefused(verdict.reason))
    else if (!isTls) end(null)
  })
  if (isTls) socket.once('secureConnect', () => end(null))
  socket.on('error', (error) => {
    // Over TLS 1.3 a server that wants a certificate says so only now. Such an alert does not end
    // the socket; what does so later says less.
    if (isDone && socket.readableLength === 0) socket.destroy(error)
    const isHandshake = isTls && isConnected && !isReset(error)
    end(isHandshake ? new HandshakeFailed(error) : error)
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
    ALPNProtocols: ['http/1.1'],
    rejectUnauthorized: true,
    // RFC 6066: a name without its trailing dot, and no name at all for an address.
    ...(isIP(hostname) === 0 ? { servername: hostname.replace(/\.$/, '') } : {}),
    ...(secureContext === undefined ? {} : { secureContext }),
    ...(session === undefined ? {} : { session }),
  }
}

function remember(sessions: Map<string, Buffer>, key: string, session: Buffer): void {
  if (sessions.size >= MAX_TLS_SESSIONS && !sessions.has(key)) sessions.clear()
  sessions.set(key, session)
}

/** One refused answer refuses all: a name must not be tried until it shows its good side. */
function guardedLookup(
  resolve: Resolve,
  judge: (ip: string) => ReturnType<AddressPolicy['judgeAddress']>,
): LookupFunction {
  return (hostname, options, done) => {
    resolve(hostname, (error, addresses) => {
      if (error !== null) return done(error, [])
      for (const { address } of addresses) {
        const verdict = judge(address)
        if (!verdict.allowed) return done(new AddressRefused(verdict.reason), [])
      }
      const [first] = addresses
      // Node would throw on an empty list, outside of anything that could catch it.
      if (first === undefined) return done(noAddress(hostname), [])
      if (options.all) return done(null, addresses)
      return done(null, first.address, first.family)
    })
  }
}

function noAddress(hostname: string): Error {
  return Object.assign(new Error(`${hostname} has no address`), { code: 'ENOTFOUND' })
}
