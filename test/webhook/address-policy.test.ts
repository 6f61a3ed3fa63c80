// The address policy as tables: every address outside the public internet, in every spelling.
import { describe, expect, it } from 'vitest'
import { createAddressPolicy, type Verdict } from '../../src/webhook/address-policy.ts'

const policyOf = (allowedTargets: string[] = [], allowLoopback = false) =>
  createAddressPolicy({ allowedTargets, allowLoopback })
const strict = policyOf()
const local = policyOf([], true)

const reasonOf = (verdict: Verdict) => (verdict.allowed ? 'allowed' : verdict.reason)
const urlOf = (ip: string) => `http://${ip.includes(':') ? `[${ip}]` : ip}/hook`

/** The first and the last address of each range, and the name of the range in the refusal. */
const REFUSED: [range: string, kind: string, addresses: string[]][] = [
  ['0.0.0.0/8', 'unspecified', ['0.0.0.0', '0.255.255.255']],
  ['10.0.0.0/8', 'private', ['10.0.0.0', '10.255.255.255']],
  ['172.16.0.0/12', 'private', ['172.16.0.0', '172.31.255.255']],
  ['192.168.0.0/16', 'private', ['192.168.0.0', '192.168.255.255']],
  ['100.64.0.0/10', 'carrier-grade NAT', ['100.64.0.0', '100.127.255.255']],
  ['127.0.0.0/8', 'loopback', ['127.0.0.0', '127.0.0.1', '127.255.255.255']],
  ['169.254.0.0/16', 'link-local', ['169.254.0.0', '169.254.255.255']],
  ['192.0.0.0/24', 'protocol-assignment', ['192.0.0.0', '192.0.0.255']],
  ['192.0.2.0/24', 'documentation', ['192.0.2.0', '192.0.2.255']],
  ['198.51.100.0/24', 'documentation', ['198.51.100.0', '198.51.100.255']],
  ['203.0.113.0/24', 'documentation', ['203.0.113.0', '203.0.113.255']],
  ['192.88.99.0/24', '6to4 relay', ['192.88.99.0', '192.88.99.255']],
  ['198.18.0.0/15', 'benchmarking', ['198.18.0.0', '198.19.255.255']],
  ['224.0.0.0/4', 'multicast', ['224.0.0.0', '239.255.255.255']],
  ['240.0.0.0/4', 'reserved', ['240.0.0.0', '255.255.255.254']],
  ['255.255.255.255/32', 'broadcast', ['255.255.255.255']],
  ['::/128', 'unspecified', ['::']],
  ['::1/128', 'loopback', ['::1', '0:0:0:0:0:0:0:1']],
  ['127.0.0.0/8', 'loopback', ['::7f00:1', '64:ff9b::7f00:1', '2002:7f00:1::', '2002:7fff:1::1']],
  ['10.0.0.0/8', 'private', ['::10.0.0.1', '64:ff9b::10.1.2.3', '2002:a01:203:ffff::1']],
  ['169.254.0.0/16', 'link-local', ['::169.254.1.1', '64:ff9b::a9fe:101', '2002:a9fe:101::']],
  ['0.0.0.0/8', 'unspecified', ['::2', '64:ff9b::', '2002::', '2002:0:ffff::1']],
  ['240.0.0.0/4', 'reserved', ['64:ff9b::f000:1', '2002:f000:1::']],
  ['10.0.0.0/8', 'private', ['::ffff:10.0.0.1', '::ffff:a00:1']],
  ['127.0.0.0/8', 'loopback', ['::ffff:127.0.0.1', '::ffff:7f00:1']],
  ['169.254.0.0/16', 'link-local', ['::ffff:169.254.1.1']],
  ['::ffff:0:0:0/96', 'IPv4-translated', ['::ffff:0:7f00:1', '::ffff:0:808:808']],
  ['64:ff9b:1::/48', 'NAT64', ['64:ff9b:1::', '64:ff9b:1:ffff:ffff:ffff:ffff:ffff']],
  ['100::/64', 'discard', ['100::', '100::ffff']],
  ['2001::/32', 'Teredo', ['2001::', '2001:0:ffff:ffff:ffff:ffff:ffff:ffff']],
  ['2001:2::/48', 'benchmarking', ['2001:2::', '2001:2:0:ffff:ffff:ffff:ffff:ffff']],
  ['2001::/23', 'protocol-assignment', ['2001:10::1', '2001:1ff::1']],
  ['2001:db8::/32', 'documentation', ['2001:db8::', '2001:db8:ffff::1']],
  ['3fff::/20', 'documentation', ['3fff::', '3fff:fff::1']],
  ['fc00::/7', 'unique-local', ['fc00::', 'fdff:ffff::1']],
  ['fe80::/10', 'link-local', ['fe80::1', 'febf::1']],
  ['fec0::/10', 'site-local', ['fec0::', 'feff::1']],
  ['ff00::/8', 'multicast', ['ff00::', 'ff02::1', 'ffff::1']],
  ['::/3', 'reserved', ['1::1', '1fff::1']],
  ['4000::/2', 'reserved', ['4000::1', '5f00::1', '7fff::1']],
  ['8000::/1', 'reserved', ['8000::1', 'fbff::1']],
]

/** Addresses next to the edges of refused ranges: they show that no range is too wide. */
const PUBLIC = [
  ...['1.0.0.0', '9.255.255.255', '11.0.0.0', '100.63.255.255', '100.128.0.0', '126.255.255.255'],
  ...['128.0.0.0', '169.253.255.255', '169.255.0.0', '172.15.255.255', '172.32.0.0', '192.0.1.0'],
  ...['192.0.3.0', '192.167.255.255', '192.169.0.0', '198.17.255.255', '198.20.0.0', '8.8.8.8'],
  ...['198.51.101.0', '203.0.112.255', '203.0.114.0', '223.255.255.255', '::ffff:8.8.8.8'],
  ...['2000::1', '2001:200::1', '2001:db7::1', '2001:db9::1', '2003::1', '2606:4700::1111'],
  ...['3ffe::1', '3fff:1000::1', '64:ff9b::808:808', '64:ff9b::8.8.8.8', '2002:808:808::1'],
  ...['::8.8.8.8', '2002:808:808:a9fe:a9fe::'],
]

const METADATA = [
  ...['169.254.169.254', '::ffff:169.254.169.254', '169.254.170.2', '100.100.100.200'],
  ...['168.63.129.16', '192.0.0.192', 'fd00:ec2::254', 'fd20:ce::254'],
  ...['::169.254.169.254', '64:ff9b::a9fe:a9fe', '64:ff9b::169.254.170.2', '2002:a9fe:a9fe::1'],
  ...['2002:6464:64c8::', '64:ff9b::6464:64c8', '64:ff9b:1::a9fe:a9fe', '64:ff9b:1:a9fe:a9:fe00::'],
  ...['64:ff9b:1:a9:fe:a9fe::', '64:ff9b:1:0:a9:fea9:fe00:0'],
]

describe('addresses', () => {
  it.each(REFUSED)('in %s are refused as %s, in a URL and when dialled', (range, kind, ips) => {
    for (const ip of ips) {
      for (const reason of [
        reasonOf(strict.judgeAddress(ip, 80)),
        reasonOf(strict.checkUrl(urlOf(ip))),
      ]) {
        expect(reason).toContain(` ${kind} address (${range})`)
        expect(reason).toMatch(/; ALLOWED_TARGETS=\S+ would allow it$/)
      }
    }
  })

  it.each(PUBLIC)('%s is public and allowed', (ip) => {
    expect(strict.judgeAddress(ip, 443)).toEqual({ allowed: true })
    expect(strict.checkUrl(urlOf(ip))).toEqual({ allowed: true })
  })

  it.each(METADATA)('%s hands out cloud credentials and is refused', (ip) => {
    expect(reasonOf(strict.judgeAddress(ip, 80))).toContain('a cloud metadata address')
    expect(reasonOf(strict.checkUrl(urlOf(ip)))).toContain('a cloud metadata address')
  })

  it('that cannot be parsed are refused', () => {
    for (const ip of ['', 'example.com', '1.2.3.4.5', ':::']) {
      expect(strict.judgeAddress(ip, 80).allowed).toBe(false)
    }
    expect(reasonOf(strict.judgeAddress('fe80::1%eth0', 80))).toContain('a link-local address')
  })

  it('that carry an IPv4 address are named with it', () => {
    expect(reasonOf(strict.judgeAddress('64:ff9b::a01:203', 80, 'db.example.com'))).toBe(
      'db.example.com resolves to 64:ff9b::a01:203 (10.1.2.3 inside), a private address (10.0.0.0/8); ALLOWED_TARGETS=64:ff9b::a01:203/128 would allow it',
    )
    expect(reasonOf(strict.judgeAddress('2002:a9fe:a9fe::', 80))).toBe(
      '2002:a9fe:a9fe:: (169.254.169.254 inside) is a cloud metadata address; no setting allows it',
    )
  })

  it('are named together with the name that led to them', () => {
    expect(reasonOf(strict.judgeAddress('10.1.2.3', 80, 'db.example.com'))).toBe(
      'db.example.com resolves to 10.1.2.3, a private address (10.0.0.0/8); ALLOWED_TARGETS=10.1.2.3/32 would allow it',
    )
  })
})

describe('URLs', () => {
  it.each([
    'http://0x7f.1/',
    'http://0x7f000001/',
    'http://2130706433/',
    'http://017700000001/',
    'http://0177.0.0.1/',
    'http://127.1/',
    'http://127.0.0.1./',
    'http://127%2e0.0.1/',
    'http://１２７.0.0.1/',
    'http://[::ffff:7f00:1]/',
    'http://[::ffff:127.0.0.1]/',
    'HTTP://127.0.0.1:8080/',
  ])('%s is loopback, however it is written', (url) => {
    expect(reasonOf(strict.checkUrl(url))).toContain('127.0.0.1 is a loopback address')
    expect(local.checkUrl(url)).toEqual({ allowed: true })
  })

  it.each([
    'http:127.0.0.1/',
    'http:jobs.example.com/',
    'http:\\\\jobs.example.com\\',
    'http:///jobs.example.com/',
    'http://@jobs.example.com/',
    'http://:@jobs.example.com/',
    'http://a.example.com,http://b.example.com/',
    'http://a.example.com;b.example.com/',
    'http://*.example.com/',
    'http://jobs..example.com/',
    'http://jobs.example.com/a b',
    'http://jobs.example.com/\n',
    ' http://jobs.example.com/',
  ])('%j is refused: people do not write URLs so', (url) => {
    expect(reasonOf(local.checkUrl(url))).toBe(
      'it is not written like https://jobs.example.com/hook',
    )
  })

  it.each([
    'http://jobs.example.com',
    'HTTPS://Jobs.Example.Com:8443/a/b?c=d',
    'http://jobs.example.com./',
    'http://my_service:8080/hook',
    'http://bücher.example/',
    'http://[2606:4700::1111]:8080/',
    'http://jobs.example.com/%20?email=a@b.example',
  ])('%s is taken', (url) => {
    expect(strict.checkUrl(url)).toEqual({ allowed: true })
  })

  it.each(['localhost', 'LOCALHOST', 'localhost.', 'a.b.localhost', 'ip6-loopback'])(
    'with the name %s are refused but in local mode',
    (name) => {
      expect(reasonOf(strict.checkUrl(`http://${name}/`))).toContain('name of the loopback address')
      expect(local.checkUrl(`http://${name}/`)).toEqual({ allowed: true })
    },
  )

  it.each(['metadata.google.internal', 'Metadata.Google.Internal.', 'metadata', 'instance-data'])(
    'with the name %s are refused, and so is dialling it',
    (name) => {
      for (const policy of [strict, local]) {
        const reasons = [
          policy.checkUrl(`http://${name}/`),
          policy.judgeAddress('8.8.8.8', 80, name),
        ]
        for (const reason of reasons.map(reasonOf)) {
          expect(reason).toContain('is a cloud metadata name; no setting allows it')
        }
      }
    },
  )

  it.each(['ftp://example.com/', 'file:///etc/passwd', 'javascript:1', 'ws://example.com/'])(
    '%s is neither http nor https',
    (url) => {
      expect(reasonOf(local.checkUrl(url))).toContain('neither http nor https')
    },
  )

  it.each(['http://user@example.com/', 'http://:pw@example.com/', 'http://u:p@example.com/'])(
    '%s holds a secret where it would be shown',
    (url) => {
      expect(reasonOf(local.checkUrl(url))).toContain('user name or a password')
    },
  )

  it.each(['', 'example.com/hook', '/hook', 'http://', 'http://a b/', 'http://[::1/'])(
    '"%s" is no absolute URL',
    (url) => {
      expect(strict.checkUrl(url).allowed).toBe(false)
    },
  )

  it.each([22, 25, 465, 6000, 6667, 10080])(
    'with port %i are refused, even on a good host',
    (port) => {
      for (const host of ['example.com', '8.8.8.8']) {
        const verdict = local.checkUrl(`https://${host}:${port}/`)
        expect(reasonOf(verdict)).toContain(`ALLOWED_TARGETS=${host}:${port} would allow it`)
      }
      expect(local.judgeAddress('8.8.8.8', port).allowed).toBe(false)
    },
  )

  it.each(['https://example.com/hook?x=1#y', 'http://hooks.example.com:8080/', 'http://db/'])(
    '%s is accepted; the addresses of a name are checked when it is dialled',
    (url) => {
      expect(strict.checkUrl(url)).toEqual({ allowed: true })
    },
  )
})

describe('local mode', () => {
  it('opens loopback and nothing else that is private', () => {
    for (const ip of ['127.0.0.1', '127.9.9.9', '::1', '::ffff:127.0.0.1']) {
      expect(local.judgeAddress(ip, 3000)).toEqual({ allowed: true })
    }
    for (const [range, , ips] of REFUSED) {
      if (range.startsWith('127.') || range.startsWith('::1/')) continue
      for (const ip of ips) expect(local.judgeAddress(ip, 80).allowed).toBe(false)
    }
    for (const ip of METADATA) expect(local.judgeAddress(ip, 80).allowed).toBe(false)
  })
})

describe('ALLOWED_TARGETS', () => {
  it('opens the range it names, for addresses and for names that lead there', () => {
    const policy = policyOf(['10.0.0.0/8', 'fd00::/8'])
    for (const ip of ['10.1.2.3', '::ffff:10.1.2.3', 'fd12::1']) {
      expect(policy.judgeAddress(ip, 80, 'db.example.com')).toEqual({ allowed: true })
      expect(policy.checkUrl(urlOf(ip))).toEqual({ allowed: true })
    }
    for (const ip of ['11.0.0.1', '172.16.0.1', '127.0.0.1', 'fc00::1']) {
      expect(policy.judgeAddress(ip, 80)).toEqual(strict.judgeAddress(ip, 80))
    }
  })

  it('opens no metadata address, whatever it names: ranges, or hosts that resolve to it', () => {
    const ranges = ['0.0.0.0/0', '::/0', '64:ff9b::/96', '64:ff9b:1::/48', '2002::/16', '::/96']
    const hosts = ['hooks.example.com:80', 'metadata.example.com:80', 'localhost:80']
    const wide = policyOf([...ranges, '169.254.0.0/16', 'fd00:ec2::/64', ...hosts])
    expect(wide.judgeAddress('127.0.0.1', 80).allowed).toBe(true)
    for (const ip of METADATA) {
      expect(reasonOf(wide.checkUrl(urlOf(ip)))).toContain('no setting allows it')
      for (const name of [undefined, ...hosts.map((host) => host.replace(':80', ''))]) {
        expect(wide.judgeAddress(ip, 80, name), `${name} ${ip}`).toMatchObject({ allowed: false })
      }
    }
  })

  it.each(
    METADATA.flatMap((ip) => [
      `${ip}/${ip.includes(':') ? 128 : 32}`,
      `${ip.includes(':') ? `[${ip}]` : ip}:80`,
    ]).filter((text) => !/^::.*\.\d+\/128$/.test(text)),
  )('"%s" is refused at the start: it would have no effect', (text) => {
    expect(() => policyOf([text])).toThrow(
      `ALLOWED_TARGETS contains "${text}", a cloud metadata address, which no setting allows`,
    )
  })

  it.each(['metadata.google.internal:80', 'METADATA.google.internal:8080', 'metadata:80'])(
    '"%s" is refused at the start too',
    (text) => {
      expect(() => policyOf([text])).toThrow(
        `ALLOWED_TARGETS contains "${text}", a cloud metadata name, which no setting allows`,
      )
    },
  )

  it('opens the range of a translator, and what is opened by its IPv4 address', () => {
    const translator = policyOf(['64:ff9b::/96'])
    expect(translator.judgeAddress('64:ff9b::a00:1', 80).allowed).toBe(true)
    expect(translator.judgeAddress('10.0.0.1', 80).allowed).toBe(false)
    const inside = policyOf(['10.0.0.0/8', '192.168.0.1:8080'])
    for (const ip of ['64:ff9b::a00:1', '2002:a00:1::', '::10.0.0.1']) {
      expect(inside.judgeAddress(ip, 80).allowed).toBe(true)
    }
    expect(inside.judgeAddress('64:ff9b::c0a8:1', 8080).allowed).toBe(true)
    expect(inside.judgeAddress('64:ff9b::c0a8:1', 8081).allowed).toBe(false)
  })

  it('opens one host at one port, wherever the name leads', () => {
    const policy = policyOf(['Internal.Example.com:8080', '10.0.0.1:9000', '[::1]:9001'])
    expect(policy.judgeAddress('10.9.9.9', 8080, 'internal.example.com.').allowed).toBe(true)
    expect(policy.judgeAddress('10.9.9.9', 8081, 'internal.example.com').allowed).toBe(false)
    expect(policy.judgeAddress('10.9.9.9', 8080, 'other.example.com').allowed).toBe(false)
    expect(policy.checkUrl('http://10.0.0.1:9000/').allowed).toBe(true)
    expect(policy.checkUrl('http://0xa.1:9000/').allowed).toBe(true)
    expect(policy.checkUrl('http://10.0.0.1:9001/').allowed).toBe(false)
    expect(policy.checkUrl('http://[::1]:9001/').allowed).toBe(true)
  })

  it('opens hosts with underscores, of other alphabets, and with a dot at the end', () => {
    const policy = policyOf(['my_service:80', 'münchen.example:80', 'dotted.example.:80'])
    for (const name of ['my_service', 'xn--mnchen-3ya.example', 'dotted.example']) {
      expect(policy.judgeAddress('10.9.9.9', 80, name).allowed).toBe(true)
    }
  })

  it('opens a blocked port only where it is named with its host', () => {
    expect(policyOf(['10.0.0.0/8']).checkUrl('http://10.0.0.1:25/').allowed).toBe(false)
    expect(policyOf(['10.0.0.1:25']).checkUrl('http://10.0.0.1:25/').allowed).toBe(true)
    expect(policyOf(['mail.example.com:25']).checkUrl('http://mail.example.com:25/').allowed).toBe(
      true,
    )
  })

  it('opens the names of loopback together with the loopback range', () => {
    expect(policyOf(['127.0.0.0/8']).checkUrl('http://localhost:3000/').allowed).toBe(true)
    expect(policyOf(['localhost:3000']).checkUrl('http://localhost:3000/').allowed).toBe(true)
    expect(policyOf(['localhost:3000']).checkUrl('http://localhost:3001/').allowed).toBe(false)
  })

  it('allows what a refusal said would allow it', () => {
    const urls = REFUSED.flatMap(([, , ips]) => ips.map(urlOf))
    urls.push('http://localhost/', 'http://8.8.8.8:25/')
    for (const url of urls) {
      const [, setting = ''] =
        /ALLOWED_TARGETS=(\S+) would/.exec(reasonOf(strict.checkUrl(url))) ?? []
      expect(policyOf([setting]).checkUrl(url), url).toEqual({ allowed: true })
    }
  })

  it.each([
    ...['', 'nope', 'example.com', '10.0.0.5', '10.0.0.0/33', '10.0.0.0/-1', '10.0.0.0/8/8'],
    ...['::1/129', '::1', '10.1/8', '010.0.0.0/8', '0x0a.0.0.0/8', 'fe80::1%eth0/64'],
    ...[
      'host:0',
      'host:65536',
      'host:http',
      ':80',
      '[::1]',
      '[nope]:80',
      'http://host:80',
      'a b:80',
    ],
    // Texts that the parsers of URLs and addresses accept, but that are certainly mistakes.
    ...['*:80', '*.example.com:80', '10.0.0.0/08', 'host:080', 'a..b:80', '-a:80', 'a$b:80'],
    ...['10.1:80', '010.0.0.1:80', '0x7f.1:80', '2130706433:80', '１０.0.0.1:80', 'a%2eb:80'],
    ...['::ffff:10.0.0.0/104'],
  ])('"%s" is refused at the start, in a sentence', (text) => {
    expect(() => policyOf([text])).toThrow(
      `ALLOWED_TARGETS contains "${text}"; expected a CIDR such as 10.0.0.0/8`,
    )
  })
})
