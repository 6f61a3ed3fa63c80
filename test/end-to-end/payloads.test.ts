// The promise of bytes: a payload arrives as it was sent, and a payload that is too large is
// refused.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { ENGINES } from '../support/engines.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'

const MAX_BODY_BYTES = 1_048_576
const ENVELOPE = '{"endpoint":"work","payload":'

/** A body of exactly this many bytes, and its payload. */
function bodyOf(bytes: number) {
  const payload = `"${'é'.repeat(10)}${'x'.repeat(bytes - ENVELOPE.length - 1 - 22)}"`
  return { payload, body: `${ENVELOPE}${payload}}` }
}

describe.each(ENGINES)('on %s', (engine) => {
  let posthorn: Deployment
  let receiver: Receiver
  beforeAll(async () => {
    posthorn = deploy(engine)
    receiver = await startReceiver()
    await posthorn.startApi()
    await posthorn.startWorker()
    await posthorn.endpoint('work', receiver.url)
  })
  afterAll(async () => {
    await posthorn.close()
    await receiver.close()
  })

  it.each([
    ['a 64-bit integer', '18446744073709551615'],
    ['a number as it was spelled', '[1.0,-0,1e2,1E+2,0.10,1e400]'],
    ['keys out of order', '{"z":1,"a":2,"10":3,"2":4}'],
    ['duplicate keys', '{"a":1,"a":2}'],
    ['emoji and escapes', '"🐎 \\ud83d\\udc0e \\u0000 \\ud800 \\/"'],
    ['a name the database would take for its own', '{"$gt":"","a.b":{"_bsontype":"Long"}}'],
    ['white space inside', '{ "a" :\t[ 1 ,\r\n2 ] }'],
    ['1 MiB in all', bodyOf(MAX_BODY_BYTES).payload],
  ])('%s is delivered identical', async (_, payload) => {
    const before = receiver.requests.length
    const posted = await posthorn.request('POST', '/jobs', `${ENVELOPE}${payload}}`)
    expect(posted.status).toBe(201)
    await receiver.waitFor((requests) => requests.length > before)
    const received = receiver.requests[before]
    expect(received?.headers['webhook-id']).toBe(posted.body.id)
    expect(received?.body.equals(Buffer.from(payload))).toBe(true)
  })

  it('one byte more than 1 MiB is refused with 413', async () => {
    const { body } = bodyOf(MAX_BODY_BYTES + 1)
    expect(Buffer.byteLength(body)).toBe(MAX_BODY_BYTES + 1)
    const answer = await posthorn.request('POST', '/jobs', body)
    expect(answer.status).toBe(413)
    expect(answer.body).toMatchObject({ code: 'payload_too_large' })
  })
})
