// verify accepts what Posthorn has signed, and nothing else. The code of another project signs
// here.
import { createHmac } from 'node:crypto'
import fc from 'fast-check'
import { Webhook } from 'standardwebhooks'
import { describe, expect, it } from 'vitest'
import { VerificationError, verify } from '../../src/client/client.ts'
import { signatureHeader } from '../../src/webhook/signature.ts'
import { JOB_ID, newSecret, nowSeconds, signedHeaders } from './signed.ts'

const SECRET = newSecret()
const BODY = '{"invoice":42}'

const codeOf = (promise: Promise<unknown>) =>
  promise.then(
    () => 'verified',
    (error) => (error instanceof VerificationError ? error.code : error),
  )

describe('what the Standard Webhooks library signs', () => {
  it('is verified, whatever JSON it is', async () => {
    await fc.assert(
      fc.asyncProperty(fc.json(), fc.integer({ min: 24, max: 64 }), async (body, length) => {
        const secret = newSecret(length)
        const { payload } = await verify({ headers: signedHeaders(secret, body), body }, secret)
        expect(payload).toEqual(JSON.parse(body))
      }),
    )
  })

  it('and what Posthorn signs is verified by both', async () => {
    await fc.assert(
      fc.asyncProperty(fc.json({ stringUnit: 'grapheme' }), async (text) => {
        const body = Buffer.from(text)
        const now = nowSeconds()
        const headers = {
          ...signedHeaders(SECRET, text),
          'webhook-timestamp': String(now),
          'webhook-signature': signatureHeader([newSecret(), SECRET], JOB_ID, now, body),
        }
        const { payload } = await verify({ headers, body }, SECRET)
        expect(payload).toEqual(new Webhook(SECRET).verify(body, headers))
      }),
    )
  })

  it('is what the specification’s own example shows', async () => {
    const headers = {
      ...signedHeaders(SECRET, BODY),
      'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
      'webhook-timestamp': '1614265330',
      'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
    }
    const request = { headers, body: '{"test": 2432232314}' }
    const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
    const toleranceSeconds = nowSeconds()
    const { payload } = await verify(request, secret, { toleranceSeconds })
    expect(payload).toEqual({ test: 2432232314 })
  })
})

describe('what was tampered with is refused', () => {
  const signed = () => ({ headers: signedHeaders(SECRET, BODY), body: BODY })
  const withHeader = (name: string, value: string) => ({
    headers: { ...signed().headers, [name]: value },
    body: BODY,
  })

  it('any byte of the body', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.nat({ max: BODY.length - 1 }),
        fc.integer({ min: 1, max: 255 }),
        async (at, flip) => {
          const body = Buffer.from(BODY)
          body[at] = (body[at] as number) ^ flip
          const { headers } = signed()
          expect(await codeOf(verify({ headers, body }, SECRET))).toBe('no_matching_signature')
        },
      ),
    )
  })

  it('a body that is longer, shorter or empty', async () => {
    for (const body of [`${BODY} `, BODY.slice(1), BODY.slice(0, -1), '']) {
      const { headers } = signed()
      expect(await codeOf(verify({ headers, body }, SECRET))).toBe('no_matching_signature')
    }
  })

  it('the id, the time, the signature, the secret', async () => {
    const later = String(nowSeconds() + 7)
    const { 'webhook-signature': signature = '' } = signed().headers
    const cases: [{ headers: Record<string, string>; body: string }, string][] = [
      [withHeader('webhook-id', 'job_01jd2y8x7k0000000000000001'), 'no_matching_signature'],
      [withHeader('webhook-timestamp', later), 'no_matching_signature'],
      [withHeader('webhook-signature', signature.slice(0, -2)), 'no_matching_signature'],
      [withHeader('webhook-signature', signature.replace('v1,', 'v1a,')), 'no_matching_signature'],
      [withHeader('webhook-signature', signature.replace('v1,', '')), 'no_matching_signature'],
      [withHeader('webhook-signature', 'v1,'), 'no_matching_signature'],
      [withHeader('webhook-signature', signature.replace('v1,', 'v2,')), 'no_matching_signature'],
      [withHeader('webhook-signature', signature.toLowerCase()), 'no_matching_signature'],
    ]
    for (const [request, code] of cases) expect(await codeOf(verify(request, SECRET))).toBe(code)
    expect(await codeOf(verify(signed(), newSecret()))).toBe('no_matching_signature')
    expect(await codeOf(verify(signed(), SECRET))).toBe('verified')
  })

  it('a signed header that is missing, empty, doubled or malformed', async () => {
    for (const name of ['webhook-id', 'webhook-timestamp', 'webhook-signature']) {
      const { [name]: _, ...headers } = signed().headers
      expect(await codeOf(verify({ headers, body: BODY }, SECRET))).toBe('missing_header')
      expect(await codeOf(verify(withHeader(name, ''), SECRET))).toBe('missing_header')
    }
    const now = String(nowSeconds())
    for (const text of ['-1', '1e9', `${now}.0`, ` ${now}`, '0x10', 'now', `${now}, ${now}`]) {
      const request = withHeader('webhook-timestamp', text)
      expect(await codeOf(verify(request, SECRET)), text).toBe('malformed_header')
    }
    const doubled = { ...signed().headers, 'webhook-id': [JOB_ID, JOB_ID] }
    expect(await codeOf(verify({ headers: doubled, body: BODY }, SECRET))).toBe('malformed_header')
  })

  it('bytes that moved from the body into id and time', async () => {
    // `job_x.1764000000.` + `1764000001.5` is also id `job_x.1764000000`, time 1764000001, body 5.
    const [first, second] = [String(nowSeconds()), String(nowSeconds() + 1)]
    const key = Buffer.from(SECRET.slice('whsec_'.length), 'base64')
    const mac = createHmac('sha256', key).update(`job_x.${first}.${second}.5`).digest('base64')
    const headers = {
      ...signed().headers,
      'webhook-id': `job_x.${first}`,
      'webhook-timestamp': second,
      'webhook-signature': `v1,${mac}`,
    }
    expect(await codeOf(verify({ headers, body: '5' }, SECRET))).toBe('malformed_header')
  })

  it('what is signed but is no delivery of a job', async () => {
    for (const body of ['', '{', '\ufeff{}']) {
      const request = { headers: signedHeaders(SECRET, body), body }
      expect(await codeOf(verify(request, SECRET)), body).toBe('invalid_payload')
    }
    const { 'posthorn-fence': _, ...headers } = signed().headers
    expect(await codeOf(verify({ headers, body: BODY }, SECRET))).toBe('missing_header')
    const wrong = [
      withHeader('posthorn-fence', '-1'),
      withHeader('posthorn-attempt', 'one'),
      withHeader('posthorn-deadline', 'soon'),
    ]
    for (const request of wrong) {
      expect(await codeOf(verify(request, SECRET))).toBe('malformed_header')
    }
  })
})

describe('time', () => {
  const at = (timestampSeconds: number) => ({
    headers: signedHeaders(SECRET, BODY, { timestampSeconds }),
    body: BODY,
  })

  it('a delivery is believed for five minutes, either way, by default', async () => {
    const now = nowSeconds()
    expect(await codeOf(verify(at(now - 295), SECRET))).toBe('verified')
    expect(await codeOf(verify(at(now + 295), SECRET))).toBe('verified')
    expect(await codeOf(verify(at(now - 310), SECRET))).toBe('timestamp_too_old')
    expect(await codeOf(verify(at(now + 310), SECRET))).toBe('timestamp_too_new')
    const toleranceSeconds = 10
    expect(await codeOf(verify(at(now - 20), SECRET, { toleranceSeconds }))).toBe(
      'timestamp_too_old',
    )
    expect(await codeOf(verify(at(now - 20), SECRET, { toleranceSeconds: 60 }))).toBe('verified')
    await expect(verify(at(now), SECRET, { toleranceSeconds: Number.NaN })).rejects.toThrow(
      TypeError,
    )
  })
})

describe('secrets', () => {
  const request = () => ({ headers: signedHeaders(SECRET, BODY), body: BODY })

  it('during a rotation either may have signed', async () => {
    expect(await codeOf(verify(request(), [newSecret(), SECRET]))).toBe('verified')
    expect(await codeOf(verify(request(), [newSecret(), newSecret()]))).toBe(
      'no_matching_signature',
    )
    const both = request()
    both.headers['webhook-signature'] =
      `v1,AAAA v2,BBBB ${both.headers['webhook-signature']} v1,CCCC`
    expect(await codeOf(verify(both, SECRET))).toBe('verified')
  })

  it('one that is none is the caller’s mistake, and is never printed', async () => {
    const short = `whsec_${Buffer.alloc(8, 1).toString('base64')}`
    // biome-ignore lint/suspicious/noExplicitAny: what a caller without types may give
    const mistakes: any[] = [undefined, '', [], [''], null, 42, short, `${SECRET}!`, `${SECRET}\n`]
    for (const secret of mistakes) {
      const error = await codeOf(verify(request(), secret))
      expect(error).toBeInstanceOf(TypeError)
      if (secret) expect(String(error)).not.toContain(String(secret).slice(6, 20) || 'nothing')
    }
    expect(await codeOf(verify(request(), SECRET.slice('whsec_'.length)))).toBe('verified')
  })
})
