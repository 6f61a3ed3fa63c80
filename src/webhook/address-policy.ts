// Decides which targets a delivery may reach. Pure: no DNS and no sockets, which dial.ts has.
import { isIP, isIPv4, isIPv6 } from 'node:net'
import ipaddr from 'ipaddr.js'
import { httpUrlProblem, isHostName } from '../endpoint/http-url.ts'
import {
  EMBEDDING_RANGES,
  LOCAL_NAT64_PLACES,
  LOCAL_NAT64_RANGE,
  LOCALHOST_NAMES,
  LOOPBACK_RANGES,
  METADATA_ADDRESSES,
  METADATA_NAMES,
  REFUSED_IPV4,
  REFUSED_IPV6,
  REFUSED_PORTS,
} from './address-ranges.ts'

/** `reason` is one sentence: the address, its range and the setting that would allow it. */
export type Verdict = { allowed: true } | { allowed: false; reason: string }

export interface AddressPolicy {
  /**
   * Called at registration: checks scheme, userinfo, port, names and addresses in every spelling.
   */
  checkUrl(url: string): Verdict
  /**
   * Called when a connection is opened: checks exactly the address that is dialled.
   *
   * @param hostname the name that resolved to this address
   */
  judgeAddress(ip: string, port: number, hostname?: string): Verdict
}

export interface PolicySettings {
  /** Each is a CIDR or `host:port`. */
  allowedTargets: readonly string[]
  /** Local mode: allows 127.0.0.0/8, ::1 and the names of this host. */
  allowLoopback: boolean
}

type Address = ipaddr.IPv4 | ipaddr.IPv6
type Range = [Address, number]

interface Opened {
  ranges: Range[]
  /** `host:port`, with the host in canonical form. */
  targets: Set<string>
}

/** @throws Error, one sentence, if an allowed target is neither a CIDR nor host:port */
export function createAddressPolicy(settings: PolicySettings): AddressPolicy {
  const opened = parseTargets(settings.allowedTargets)
  const loopback = settings.allowLoopback ? LOOPBACK_RANGES.map(rangeOf) : []

  function judgeAddress(ip: string, port: number, hostname?: string): Verdict {
    const name = hostname === undefined ? undefined : canonicalHost(hostname)
    const address = parseAddress(ip)
    if (address === null) return refused(`"${ip}" is not a valid IP address`)
    if (isMetadata(address)) return refusedMetadata(address, name)
    const spellings = [name, address.toString(), embeddedIpv4(address)?.toString()]
    if (spellings.some((host) => isNamed(opened, host, port))) return ALLOWED
    if (name !== undefined && isMetadataName(name)) return refusedMetadataName(name)
    if (REFUSED_PORTS.has(port)) return refusedPort(name ?? address.toString(), port)
    return checkRange(address, name)
  }

  function checkRange(address: Address, name: string | undefined): Verdict {
    const inner = embeddedIpv4(address)
    const isOpened = (one: Address) => opened.ranges.some((range) => contains(range, one))
    if (isOpened(address) || (inner !== null && isOpened(inner))) return ALLOWED
    // Only the outer address is checked: an address that embeds a loopback address leads to a
    // gateway, not to this machine.
    if (loopback.some((range) => contains(range, address))) return ALLOWED
    const found = REFUSED.find(({ range }) => contains(range, inner ?? address))
    return found === undefined ? ALLOWED : refusedAddress(address, name, found)
  }

  function checkUrl(text: string): Verdict {
    const problem = httpUrlProblem(text)
    if (problem !== null) return refused(problem)
    const url = new URL(text)
    const port = portOf(url)
    const host = canonicalHost(url.hostname)
    if (ipaddr.isValid(host)) return judgeAddress(host, port)
    if (isNamed(opened, host, port)) return ALLOWED
    if (isMetadataName(host)) return refusedMetadataName(host)
    if (isLocalhostName(host) && !checkRange(LOCALHOST, host).allowed) {
      return refusedName(host, port, 'a name of the loopback address')
    }
    return REFUSED_PORTS.has(port) ? refusedPort(host, port) : ALLOWED
  }

  return { checkUrl, judgeAddress }
}

/** The port of a URL, or the default port of its scheme. */
export function portOf(url: URL): number {
  if (url.port !== '') return Number(url.port)
  return url.protocol === 'https:' ? 443 : 80
}

const ALLOWED: Verdict = { allowed: true }

const MAX_PORT = 65_535

const LOCALHOST = ipaddr.parse('127.0.0.1')

const METADATA = new Set(METADATA_ADDRESSES.map((text) => ipaddr.parse(text).toString()))

/** No setting allows these addresses, in any form. */
function isMetadata(address: Address): boolean {
  return [address, ...ipv4Within(address)].some((one) => METADATA.has(one.toString()))
}

const EMBEDDING = EMBEDDING_RANGES.map(([cidr, at]) => ({ range: rangeOf(cidr), at }))
const LOCAL_NAT64 = rangeOf(LOCAL_NAT64_RANGE)

/**
 * The IPv4 address that this IPv6 address reaches through a translator or a relay; null: none. Only
 * the IPv4 address decides whether it may be dialled.
 */
function embeddedIpv4(address: Address): ipaddr.IPv4 | null {
  if (isPlain(address)) return null
  const found = EMBEDDING.find(({ range }) => contains(range, address))
  return found === undefined ? null : ipv4At(address, found.at)
}

/**
 * All IPv4 addresses that an address may embed. The operator of a local NAT64 chooses its prefix,
 * so the IPv4 address may be in one of several places, and each of them is read.
 */
function ipv4Within(address: Address): ipaddr.IPv4[] {
  if (contains(LOCAL_NAT64, address)) {
    return LOCAL_NAT64_PLACES.map((places) => ipv4At(address, places))
  }
  const inner = embeddedIpv4(address)
  return inner === null ? [] : [inner]
}

/** Whether this is :: or ::1, which are not IPv4-compatible addresses. */
function isPlain(address: Address): boolean {
  return UNEMBEDDED.has(address.toString())
}

const UNEMBEDDED = new Set(['::', '::1'])

function ipv4At(address: Address, places: readonly number[]): ipaddr.IPv4 {
  const bytes = address.toByteArray()
  return new ipaddr.IPv4(places.map((place) => bytes[place] as number))
}

const REFUSED = [...REFUSED_IPV4, ...REFUSED_IPV6].map(([name, cidr]) => ({
  name,
  cidr,
  range: rangeOf(cidr),
}))

function rangeOf(cidr: string): Range {
  return ipaddr.parseCIDR(cidr)
}

function contains([base, bits]: Range, address: Address): boolean {
  return base.kind() === address.kind() && address.match(base, bits)
}

/** Parses an address without its zone. An IPv4-mapped address becomes the IPv4 address in it. */
function parseAddress(text: string): Address | null {
  const bare = text.replace(/%.*$/, '')
  // ipaddr.js reads ::1.2.3.4 as the mapped ::ffff:1.2.3.4; the URL parser reads it correctly.
  const plain = isIPv6(bare) ? canonicalHost(new URL(`http://[${bare}]`).hostname) : bare
  return ipaddr.isValid(plain) ? ipaddr.process(plain) : null
}

/**
 * Returns the host in lower case, without brackets and trailing dots: `LOCALHOST.` is localhost.
 */
function canonicalHost(host: string): string {
  const bare = host.replace(/^\[(.*)\]$/, '$1').replace(/\.+$/, '')
  return bare.toLowerCase()
}

function isNamed(opened: Opened, host: string | undefined, port: number): boolean {
  return host !== undefined && opened.targets.has(`${host}:${port}`)
}

function isMetadataName(host: string): boolean {
  return (METADATA_NAMES as readonly string[]).includes(host)
}

function isLocalhostName(host: string): boolean {
  return (LOCALHOST_NAMES as readonly string[]).includes(host) || host.endsWith('.localhost')
}

function parseTargets(texts: readonly string[]): Opened {
  const opened: Opened = { ranges: [], targets: new Set() }
  for (const text of texts) {
    // Only full spellings are accepted: ipaddr.js reads 10.1/8 as 10.0.0.1/8, which is never intended.
    const [base = '', bits = ''] = text.split('/')
    const isSpelledOut = isIP(base) !== 0 && !base.includes('%') && /^(0|[1-9]\d*)$/.test(bits)
    if (isSpelledOut && ipaddr.isValidCIDR(text) && !isMapped(base)) {
      const range = rangeOf(text)
      const [address, length] = range
      if (length === address.toByteArray().length * 8) refuseMetadata(text, address)
      opened.ranges.push(range)
    } else opened.targets.add(parseHostAndPort(text))
  }
  return opened
}

/**
 * Whether this is an IPv4-mapped range like ::ffff:10.0.0.0. It would match no address, because an
 * IPv4-mapped address is compared as IPv4.
 */
function isMapped(base: string): boolean {
  const address = ipaddr.parse(base)
  return address instanceof ipaddr.IPv6 && address.isIPv4MappedAddress()
}

/**
 * The host as the URL parser reads it; null: it is not a plain name or address. The URL parser
 * alone would accept `*` and other characters in a name, and 10.1, 010.0.0.1 and 0x7f.1 as
 * addresses.
 */
function hostIn(text: string): string | null {
  const host = canonicalHost(URL.parse(`http://${text}/`)?.hostname ?? '')
  if (text.includes('%') || !isHostName(host)) return null
  return isIPv4(host) && host !== text ? null : host
}

function parseHostAndPort(text: string): string {
  const [, hostText = '', portText = ''] =
    /^(\[[0-9a-f:.]+\]|[^:/?#@[\]\s]+):([1-9]\d{0,4})$/i.exec(text) ?? []
  const port = Number(portText)
  const host = hostIn(hostText)
  if (host === null || port < 1 || port > MAX_PORT) {
    throw new Error(
      `ALLOWED_TARGETS contains "${text}"; expected a CIDR such as 10.0.0.0/8 or 10.1.2.3/32, or a host:port such as internal.example.com:8080`,
    )
  }
  const address = parseAddress(host)
  if (address !== null) refuseMetadata(text, address)
  if (isMetadataName(host)) throw new Error(withoutEffect(text, 'name'))
  return `${address?.toString() ?? host}:${port}`
}

/** Refuses a metadata address in the setting, which would have no effect. */
function refuseMetadata(text: string, address: Address): void {
  if (isMetadata(address)) throw new Error(withoutEffect(text, 'address'))
}

function withoutEffect(text: string, kind: 'address' | 'name'): string {
  return `ALLOWED_TARGETS contains "${text}", a cloud metadata ${kind}, which no setting allows`
}

function refused(reason: string): Verdict {
  return { allowed: false, reason }
}

function refusedAddress(
  address: Address,
  name: string | undefined,
  { name: kind, cidr }: { name: string; cidr: string },
): Verdict {
  const whole = `${address.toString()}/${address.kind() === 'ipv4' ? 32 : 128}`
  const found = `${leading(address, name)} ${kind} address (${cidr})`
  return refused(`${found}; ALLOWED_TARGETS=${whole} would allow it`)
}

function refusedMetadata(address: Address, name: string | undefined): Verdict {
  return refused(`${leading(address, name)} a cloud metadata address; no setting allows it`)
}

/** The beginning of a reason: the address, the name that resolved to it, and an embedded IPv4. */
function leading(address: Address, name: string | undefined): string {
  const ip = address.toString()
  const [inner] = ipv4Within(address)
  const shown = inner === undefined ? ip : `${ip} (${inner.toString()} inside)`
  return name === undefined || name === ip ? `${shown} is` : `${name} resolves to ${shown},`
}

function refusedName(host: string, port: number, kind: string): Verdict {
  return refused(`${host} is ${kind}; ALLOWED_TARGETS=${host}:${port} would allow it`)
}

function refusedMetadataName(host: string): Verdict {
  return refused(`${host} is a cloud metadata name; no setting allows it`)
}

function refusedPort(host: string, port: number): Verdict {
  const shownHost = host.includes(':') ? `[${host}]` : host
  return refused(
    `port ${port} belongs to another protocol and is blocked; ALLOWED_TARGETS=${shownHost}:${port} would allow it`,
  )
}
