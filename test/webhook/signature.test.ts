// Signatures are checked by the code of another project: the Standard Webhooks library.
import { Webhook } from 'standardwebhooks'
import { describe, expect, it } from 'vitest'
import { newSecret } from '../../src/endpoint/endpoint.ts'
import { signatureHeader } from '../../src/webhook/signature.ts'

const ID = 'job_01jd2y8x7k0000000000000000'
const BODY = Buffer.from('{"n":12345678901234567890,"s":"grüße"}')

function headersFor(secrets: string[], timestampSeconds: number, body = BODY) {
  return {
    'webhook-id': ID,
    'webhook-timestamp': String(timestampSeconds),
    'webhook-signature': signatureHeader(secrets, ID, timestampSeconds, body),
  }
}

const nowSeconds = () => Math.floor(Date.now() / 1_000)

describe('signatureHeader', () => {
  it('is what the specification’s own example shows', () => {
    const header = signatureHeader(
      ['whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'],
      'msg_p5jXN8AQM9LWM0D4loKWxJek',
      1_614_265_330,
      Buffer.from('{"test": 2432232314}'),
    )
    expect(header).toBe('v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=')
  })

  it('verifies with the library, for any length of secret', () => {
    for (const length of [24, 32, 64]) {
      const secret = `whsec_${Buffer.alloc(length, length).toString('base64')}`
      const verified = new Webhook(secret).verify(BODY, headersFor([secret], nowSeconds()))
      expect(verified).toMatchObject({ s: 'grüße' })
    }
  })

  it('carries one signature for each secret, so that old and new both verify', () => {
    const secrets = [newSecret(), newSecret()]
    const headers = headersFor(secrets, nowSeconds())
    expect(headers['webhook-signature'].split(' ')).toHaveLength(2)
    for (const secret of secrets) new Webhook(secret).verify(BODY, headers)
    expect(() => new Webhook(newSecret()).verify(BODY, headers)).toThrow()
  })

  it('holds for these bytes, this id and this second only', () => {
    const secret = newSecret()
    const headers = headersFor([secret], nowSeconds())
    const webhook = new Webhook(secret)
    expect(() => webhook.verify(`${BODY} `, headers)).toThrow()
    expect(() => webhook.verify(BODY, { ...headers, 'webhook-id': `${ID}0` })).toThrow()
    const later = String(nowSeconds() + 1)
    expect(() => webhook.verify(BODY, { ...headers, 'webhook-timestamp': later })).toThrow()
  })

  it('stays right when more secrets are in use than are kept ready', () => {
    const first = newSecret()
    const before = signatureHeader([first], ID, 1, BODY)
    for (let i = 0; i < 1_100; i++) signatureHeader([newSecret()], ID, 1, BODY)
    expect(signatureHeader([first], ID, 1, BODY)).toBe(before)
  })

  it('throws on a secret that cannot have been stored, without printing it', () => {
    expect(() => signatureHeader(['whsec_c2hvcnQ='], ID, 1, BODY)).toThrow(/24–64 bytes/)
    expect(() => signatureHeader(['whsec_c2hvcnQ='], ID, 1, BODY)).not.toThrow(/c2hvcnQ/)
  })
})
