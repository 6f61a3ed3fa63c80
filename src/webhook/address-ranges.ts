// The addresses, names and ports that no delivery may reach unless a setting allows them. Data
// only; address-policy.ts has the rules.

/**
 * IPv4 ranges that are not global unicast (IANA special-purpose registry, RFC 6890). A refusal
 * names the first range that contains the address, so a smaller range comes before the one around
 * it.
 */
export const REFUSED_IPV4: readonly (readonly [name: string, cidr: string])[] = [
  ['an unspecified', '0.0.0.0/8'],
  ['a private', '10.0.0.0/8'],
  ['a carrier-grade NAT', '100.64.0.0/10'],
  ['a loopback', '127.0.0.0/8'],
  ['a link-local', '169.254.0.0/16'],
  ['a private', '172.16.0.0/12'],
  ['a protocol-assignment', '192.0.0.0/24'],
  ['a documentation', '192.0.2.0/24'],
  ['a 6to4 relay', '192.88.99.0/24'],
  ['a private', '192.168.0.0/16'],
  ['a benchmarking', '198.18.0.0/15'],
  ['a documentation', '198.51.100.0/24'],
  ['a documentation', '203.0.113.0/24'],
  ['a multicast', '224.0.0.0/4'],
  ['a broadcast', '255.255.255.255/32'],
  ['a reserved', '240.0.0.0/4'],
]

/** IPv6 ranges that are not global unicast. An address that embeds an IPv4 is checked as IPv4. */
export const REFUSED_IPV6: readonly (readonly [name: string, cidr: string])[] = [
  ['an unspecified', '::/128'],
  ['a loopback', '::1/128'],
  ['an IPv4-translated', '::ffff:0:0:0/96'],
  ['a NAT64', '64:ff9b:1::/48'],
  ['a discard', '100::/64'],
  ['a Teredo', '2001::/32'],
  ['a benchmarking', '2001:2::/48'],
  ['a protocol-assignment', '2001::/23'],
  ['a documentation', '2001:db8::/32'],
  ['a documentation', '3fff::/20'],
  ['a unique-local', 'fc00::/7'],
  ['a link-local', 'fe80::/10'],
  ['a site-local', 'fec0::/10'],
  ['a multicast', 'ff00::/8'],
  // Only 2000::/3 is assigned as global unicast. These are the other seven eighths.
  ['a reserved', '::/3'],
  ['a reserved', '4000::/2'],
  ['a reserved', '8000::/1'],
]

/** Ranges whose addresses embed an IPv4 address, and the positions of its four bytes. */
export const EMBEDDING_RANGES: readonly (readonly [cidr: string, places: readonly number[]])[] = [
  // IPv4-compatible (RFC 4291, section 2.5.5.1). Deprecated, but such a route may exist.
  ['::/96', [12, 13, 14, 15]],
  // NAT64 with the well-known prefix (RFC 6052): DNS64 makes such an address of every A record.
  ['64:ff9b::/96', [12, 13, 14, 15]],
  // 6to4 (RFC 3056).
  ['2002::/16', [2, 3, 4, 5]],
]

/** Local NAT64 (RFC 8215). The positions of the bytes depend on the prefix (RFC 6052). */
export const LOCAL_NAT64_RANGE = '64:ff9b:1::/48'
export const LOCAL_NAT64_PLACES: readonly (readonly number[])[] = [
  [6, 7, 9, 10],
  [7, 9, 10, 11],
  [9, 10, 11, 12],
  [12, 13, 14, 15],
]

export const LOOPBACK_RANGES = ['127.0.0.0/8', '::1/128'] as const

/** Addresses where clouds give credentials to any process inside them. Some of these are public. */
export const METADATA_ADDRESSES = [
  '169.254.169.254',
  '169.254.170.2',
  '169.254.0.23',
  '100.100.100.200',
  '168.63.129.16',
  '192.0.0.192',
  'fd00:ec2::254',
  'fd00:ec2::23',
  'fd20:ce::254',
] as const

export const METADATA_NAMES = [
  'metadata',
  'metadata.google.internal',
  'metadata.goog',
  'metadata.tencentyun.com',
  'instance-data',
  'instance-data.ec2.internal',
] as const

/** Names of the loopback address, in addition to every name under `.localhost`. */
export const LOCALHOST_NAMES = [
  'localhost',
  'localhost.localdomain',
  'localhost4',
  'localhost6',
  'ip6-localhost',
  'ip6-loopback',
] as const

/** The "bad ports" of the WHATWG fetch standard: an HTTP request can imitate their protocols. */
export const REFUSED_PORTS = new Set([
  0, 1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102,
  103, 104, 109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465,
  512, 513, 514, 515, 526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993,
  995, 1719, 1720, 1723, 2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, 6665, 6666, 6667, 6668,
  6669, 6679, 6697, 10080,
])
