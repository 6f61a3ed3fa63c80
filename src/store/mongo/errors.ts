// Turns an error at the start into a sentence that says what is wrong and how to fix it. It decides
// by codes, and shows the driver's text only if there is no code, and never a password.
import {
  MongoError,
  MongoServerError,
  MongoServerSelectionError,
  type ServerDescription,
  type TopologyDescription,
} from 'mongodb'
import { StoreUnavailable, StoreUnusable } from '../store-errors.ts'
import { UnreadableUrl } from './connection.ts'

const CODES = {
  unauthorized: 13,
  authenticationFailed: 18,
  /** The one code of everything that the front end of Atlas refuses. */
  atlas: 8_000,
} as const

const MAX_TEXT_LENGTH = 300

/** Codes of Node and OpenSSL for certificates and handshakes (nodejs.org/api/tls.html). */
const TLS_CODE =
  /^(ERR_(TLS|SSL|OSSL)_|CERT_|CRL_|DEPTH_ZERO_|SELF_SIGNED_|UNABLE_TO_|INVALID_CA$|EPROTO$)/

/**
 * Added if no usable response came. If only one side uses TLS, a server may close the connection,
 * reset it, respond in its own way, or let it time out.
 */
const TLS_HINT = 'does only one side use TLS (tls=true)?'
/** The codes of these, besides a timeout, which has none. */
const ONE_SIDED_CODES = ['', 'ECONNRESET', 'EPIPE', 'ERR_SSL_WRONG_VERSION_NUMBER']

const NETWORK_REASONS: Record<string, string> = {
  ECONNREFUSED: 'nothing listens there',
  ENOTFOUND: 'the host name is unknown',
  EAI_AGAIN: 'the name server does not respond',
  ETIMEDOUT: 'it does not respond',
  EHOSTUNREACH: 'there is no route to it',
  ENETUNREACH: 'there is no route to it',
}

/** Returns StoreUnusable if a setting must change, StoreUnavailable if waiting may help. */
export function startError(url: string, error: unknown): unknown {
  if (error instanceof UnreadableUrl) return unreadableUrl(url, error.cause)
  // A failed command throws StoreUnavailable, with the error of the driver as its cause.
  const cause = error instanceof StoreUnavailable && error.cause !== undefined ? error.cause : error
  if (cause instanceof MongoServerError) return refusedByServer(url, cause)
  if (cause instanceof MongoServerSelectionError) return notSelected(url, cause)
  if (isFailedLookup(cause)) {
    const sentence = `DNS has no server for the host in STORE_URL: ${cause.message}`
    return new StoreUnavailable(sentence, { cause })
  }
  if (cause instanceof MongoError) {
    return new StoreUnavailable(`MongoDB cannot be used: ${shown(url, cause.message)}`, { cause })
  }
  return error
}

function unreadableUrl(url: string, cause: unknown): StoreUnusable {
  return new StoreUnusable(
    `STORE_URL cannot be read as a MongoDB URL: ${shown(url, messageOf(cause))}`,
    { cause },
  )
}

function refusedByServer(url: string, cause: MongoServerError): Error {
  switch (cause.code) {
    case CODES.authenticationFailed:
      return new StoreUnusable(
        `MongoDB does not accept the user and password in STORE_URL.${authSourceHint(url)}`,
        { cause },
      )
    case CODES.unauthorized:
      return new StoreUnusable(
        hasUser(url)
          ? 'The user in STORE_URL lacks a privilege: it needs the role readWrite on the database ' +
              'of STORE_URL, and on that of OUTBOX.'
          : 'MongoDB requires a user and a password: add them to STORE_URL.',
        { cause },
      )
    case CODES.atlas:
      return new StoreUnusable(
        `MongoDB Atlas refuses the user in STORE_URL, or its request: ${shown(url, cause.message)}`,
        { cause },
      )
    default: {
      const name = cause.codeName ?? cause.code ?? 'no code'
      const text = `MongoDB refuses a command (${name}): ${shown(url, cause.message)}`
      return new StoreUnavailable(text, { cause })
    }
  }
}

/** If STORE_URL names a database and no authSource, MongoDB looks for the user in that database. */
function authSourceHint(url: string): string {
  const [, database = ''] = /^[^/]*\/\/[^/]*\/([^?]*)/.exec(url) ?? []
  if (database === '' || /[?&]authSource=/i.test(url)) return ''
  return (
    ` It looked for the user in the database ${decoded(database)}; if the user was created in ` +
    'admin, add authSource=admin to the query of STORE_URL.'
  )
}

function hasUser(url: string): boolean {
  return /^[^/]*\/\/[^/?]*@/.test(url)
}

/** No suitable server responded in time. The text has the reason of each server. */
function notSelected(url: string, cause: MongoServerSelectionError): Error {
  const { servers, setName, type } = cause.reason as TopologyDescription
  const known = [...servers.values()]
  if (setName !== null && type === 'ReplicaSetNoPrimary' && known.length === 0) {
    return new StoreUnusable(
      `No host in STORE_URL is a member of the replica set "${setName}", which replicaSet names: ` +
        'the servers there run alone, or belong to a set of another name (rs.status() shows it).',
      { cause },
    )
  }
  const reasons = known.map((server) => `${server.address}: ${reasonOf(server, setName)}`)
  const all = reasons.length === 0 ? cause.message : reasons.join('; ')
  return new StoreUnavailable(`MongoDB cannot be reached. ${shown(url, all)}`, { cause })
}

function reasonOf({ error, type }: ServerDescription, setName: string | null): string {
  if (error !== null) return reasonOfError(error)
  switch (type) {
    case 'RSSecondary':
    case 'RSArbiter':
    case 'RSOther':
      return 'a member of a replica set that has no primary now'
    case 'RSGhost':
      return 'a replica set that was not initiated; run rs.initiate() once'
    default:
      return setName === null
        ? `it does not respond; ${TLS_HINT}`
        : `it does not respond, or is not a member of the replica set "${setName}"; ${TLS_HINT}`
  }
}

function reasonOfError(error: Error): string {
  const { code = '', message } = (error.cause ?? error) as NodeJS.ErrnoException
  if (ONE_SIDED_CODES.includes(code)) return `${message}; ${TLS_HINT}`
  if (TLS_CODE.test(code)) return `TLS failed: ${message} (${code})`
  const known = NETWORK_REASONS[code]
  return known === undefined ? `${message} (${code})` : `${known} (${code})`
}

/** With mongodb+srv, Node's resolver throws errors of its own. */
function isFailedLookup(error: unknown): error is NodeJS.ErrnoException {
  const { syscall } = (error ?? {}) as NodeJS.ErrnoException
  return error instanceof Error && (syscall === 'querySrv' || syscall === 'queryTxt')
}

/** A text of the driver, shortened, without the user and password of the URL. */
function shown(url: string, text: string): string {
  const clean = secretsOf(url).reduce((left, secret) => left.replaceAll(secret, '***'), text)
  return clean.length <= MAX_TEXT_LENGTH ? clean : `${clean.slice(0, MAX_TEXT_LENGTH)}…`
}

/** The user and the password up to the last @, raw and decoded, the longest first. */
function secretsOf(url: string): string[] {
  const [, userinfo = ''] = /^[^/]*\/\/(.*)@/s.exec(url) ?? []
  const password = userinfo.slice(userinfo.indexOf(':') + 1)
  const secrets = [userinfo, password].flatMap((text) => [text, decoded(text)])
  return [...new Set(secrets)].filter((text) => text !== '')
}

function decoded(text: string): string {
  try {
    return decodeURIComponent(text)
  } catch {
    return text
  }
}

function messageOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error)
}
