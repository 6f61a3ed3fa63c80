// Values that an attacker or an unlucky client sends instead of a plain value.

const MAX_HEADER_TEXT = 4_000
const MANY = 200_000

/** Strings that some parser, database, shell, template, terminal or log interprets. */
export const NAUGHTY_STRINGS: [what: string, text: string][] = [
  ['nothing', ''],
  ['spaces', ' \t '],
  ['a number', '5'],
  ['minus zero', '-0'],
  ['infinity', '1e400'],
  ['not a number', 'NaN'],
  ['hexadecimal', '0x10'],
  ['Arabic digits', '٣'],
  ['true', 'true'],
  ['null', 'null'],
  ['undefined', 'undefined'],
  ['a prototype', '__proto__'],
  ['a constructor', 'constructor'],
  ['a path to a prototype', 'constructor.prototype.polluted'],
  ['a method of objects', 'hasOwnProperty'],
  ['a BSON type', '_bsontype'],
  ['an operator', '$gt'],
  ['an operator as JSON', '{"$gt":""}'],
  ['JavaScript for a database', "'; return true; var a='"],
  ['a regular expression', '.*'],
  ['a slow regular expression', `${'a'.repeat(40)}!`],
  ['a field path', 'a.b.$[].c'],
  ['SQL', "'; DROP TABLE jobs; --"],
  ['SQL that is true', '1 OR 1=1'],
  ['a LIKE pattern', '%'],
  ['a template', '{{7*7}}\u0024{7*7}<%= 7*7 %>#{7*7}'],
  ['a lookup', '\u0024{jndi:ldap://127.0.0.1/a}'],
  ['a shell command', '$(id)`id`|id;id&'],
  ['a format', '%s%n%d%x'],
  ['markup', '<script>alert(1)</script><!--'],
  ['a formula', '=1+1'],
  ['a path', '../../../../etc/passwd'],
  ['a coded path', '..%2f..%2fetc%2fpasswd'],
  ['a path of Windows', '..\\..\\windows\\win.ini'],
  ['coded NUL', '%00'],
  ['coded overlong UTF-8', '%c0%af'],
  ['two codings', '%2500'],
  ['a slash', '/'],
  ['a question mark', '?a=b&c=d#e'],
  ['a quote', '"'],
  ['a backslash', '\\'],
  ['a half escape', '\\u00'],
  ['line breaks', 'a\r\nb: c\r\n\r\nd'],
  ['line separators', 'a\u2028b\u2029c\u0085d'],
  ['a terminal command', '\u001b[31mred\u001b[0m\u009b31m\u0007'],
  ['other control characters', '\u0001\u0008\u007f\u0080'],
  ['a byte order mark', '\ufeffa'],
  ['from right to left', '\u202eabc\u202c \u05d0\u05d1'],
  ['zero width', '\u200b\u200d\u2060a'],
  ['joined emoji', '👩‍👩‍👧‍👦🏳️‍🌈'],
  ['stacked accents', `e${'\u0301'.repeat(20)}`],
  ['two forms of one letter', '\u00e9e\u0301'],
  ['letters whose case changes the length', 'ßŉİı'],
  ['noncharacters', '\ufffe\uffff\u{1ffff}'],
  ['a replacement character', '\ufffd'],
  ['NUL', 'a\0b'],
  ['half a surrogate', '\ud800'],
  ['surrogates the wrong way round', '\udc00\ud800'],
  ['very long', 'x'.repeat(100_000)],
]

/** Written as JSON text, because JSON.stringify cannot write all of them. */
export const HOSTILE_JSON: [what: string, json: string][] = [
  ...NAUGHTY_STRINGS.map(([what, text]) => [what, JSON.stringify(text)] as [string, string]),
  ['null itself', 'null'],
  ['true itself', 'true'],
  ['one', '1'],
  ['minus zero itself', '-0'],
  ['a fraction', '0.1'],
  ['a tiny number', '1e-400'],
  ['infinity itself', '1e400'],
  ['an integer beyond 53 bits', '9007199254740993'],
  ['an integer beyond 64 bits', '18446744073709551616'],
  ['a number of a thousand digits', '9'.repeat(1_000)],
  ['an empty list', '[]'],
  ['a list for a string', '["a"]'],
  ['a list of lists', '[[["a"]]]'],
  ['an empty object', '{}'],
  ['an operator object', '{"$gt":""}'],
  ['an operator that always holds', '{"$ne":null}'],
  ['JavaScript', '{"$where":"sleep(1000)"}'],
  ['a BSON object', '{"_bsontype":"ObjectId","id":"aaaaaaaaaaaa"}'],
  ['a prototype object', '{"__proto__":{"polluted":"yes"}}'],
  ['a constructor object', '{"constructor":{"prototype":{"polluted":"yes"}}}'],
  ['an object that pretends to be text', '{"length":1,"toString":"a","valueOf":"b","toJSON":"c"}'],
  ['an object with an empty name', '{"":""}'],
  ['a date that is none', '"2026-02-30T00:00:00Z"'],
  ['the first instant', '"0000-01-01T00:00:00Z"'],
  ['the last instant', '"9999-12-31T23:59:59.999Z"'],
  ['an instant beyond the last', '"9999-12-31T23:59:59-23:59"'],
  ['an instant before the first', '"0000-01-01T00:00:00+23:59"'],
  ['a leap second', '"2026-12-31T23:59:60Z"'],
  ['an instant with a long fraction', `"2026-11-24T08:30:00.${'1'.repeat(40)}Z"`],
  ['a duration of no length', '"0s"'],
  ['a duration that is too long', `"${'9'.repeat(30)}d"`],
  ['a thousand strings', JSON.stringify(Array(1_000).fill('a'))],
  ['a thousand names', JSON.stringify(Object.fromEntries(Array.from({ length: 1_000 }, named)))],
  ['65 levels', '['.repeat(65) + ']'.repeat(65)],
]

/**
 * Half a megabyte each, so they are used only where it matters that nothing recursive reads them.
 */
export const DEEP_JSON: [what: string, json: string][] = [
  ['open brackets', '['.repeat(MANY)],
  ['nested lists', '['.repeat(MANY) + ']'.repeat(MANY)],
  ['nested objects', `${'{"a":'.repeat(MANY / 2)}1${'}'.repeat(MANY / 2)}`],
]

function named(_: unknown, i: number): [string, string] {
  return [`name-${i}`, 'a']
}

/** Query strings in the form of the request line, with the name of a known parameter. */
export const HOSTILE_QUERIES: [what: string, query: (name: string) => string][] = [
  ['an operator', (name) => `${name}[$ne]=1`],
  ['an operator for a list', (name) => `${name}[]=1`],
  ['an operator, coded', (name) => `${name}%5B$gt%5D=`],
  ['a field of it', (name) => `${name}.$gt=`],
  ['twice', (name) => `${name}=a&${name}=b`],
  ['without a value', (name) => name],
  ['a prototype', () => '__proto__=1'],
  ['a field of a prototype', () => '__proto__[polluted]=1'],
  ['a constructor', () => 'constructor[prototype][polluted]=1'],
  ['JavaScript', () => '$where=1'],
  ['an unknown name', () => 'colour=red'],
  ['an empty name', () => '=1'],
  ['bytes that are not UTF-8', (name) => `${name}=%ff%fe`],
  ['overlong UTF-8', (name) => `${name}=%c0%af`],
  ['half a code', (name) => `${name}=%e`],
  ['a code that is none', (name) => `${name}=%zz`],
  ['NUL', (name) => `${name}=%00`],
]

/** Path segments in the form of the request line. */
export const HOSTILE_SEGMENTS: [what: string, segment: string][] = [
  ...NAUGHTY_STRINGS.filter(([, text]) => text !== '' && text.isWellFormed()).map(
    ([what, text]) => [what, encodeURIComponent(text.slice(0, 2_000))] as [string, string],
  ),
  ['a parent', '..%2f..%2fkeys'],
  ['a name and a parent', 'a%2f..%2fb'],
  ['overlong UTF-8, raw code', '%c0%ae%c0%ae'],
  ['bytes that are no UTF-8', '%ff%fe'],
  ['a code that is none', '%zz'],
  ['half a code', '%e'],
  ['NUL as a code', 'a%00b'],
  ['a semicolon', 'a;b=c'],
  ['colons', ':id'],
  ['stars', '*'],
]

/** Header values as bytes. Those that contain a line end try to add a header of their own. */
export const HOSTILE_HEADERS: [what: string, value: Buffer][] = [
  ...NAUGHTY_STRINGS.map(
    ([what, text]) => [what, Buffer.from(text.slice(0, MAX_HEADER_TEXT))] as [string, Buffer],
  ),
  ['bytes that are no UTF-8', Buffer.from([0x61, 0xff, 0xfe])],
  ['Latin-1', Buffer.from('ä', 'latin1')],
  ['NUL itself', Buffer.from('a\0b')],
  ['a bare carriage return', Buffer.from('a\rb')],
  ['a bare line feed', Buffer.from('a\nb: c')],
  ['a folded line', Buffer.from('a\r\n b')],
  ['a list', Buffer.from('a, b, c')],
  ['a quoted string', Buffer.from('"a\\"b"')],
  ['a quoted string without end', Buffer.from('"a')],
  ['commas', Buffer.from(','.repeat(MAX_HEADER_TEXT))],
]
