// The promise of flows: a job gets the results of the jobs that it needs, byte for byte, in the
// same request as its payload, and signed with it.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { verify } from '../../src/client/verify.ts'
import { type Deployment, deploy } from '../support/deployment.ts'
import { ENGINES } from '../support/engines.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'

const BIG = '18446744073709551615'
/** JSON.parse and JSON.stringify would change each of these values. */
const RESULT = `{"z":1.0,"irn":${BIG},"10":[1e2, -0],"a":"\\u0041"}`

describe.each(ENGINES)('on %s', (engine) => {
  let posthorn: Deployment
  let receiver: Receiver
  const secrets: Record<string, string> = {}

  beforeAll(async () => {
    posthorn = deploy(engine)
    receiver = await startReceiver(({ path }) => ({ body: path === '/einvoice' ? RESULT : '{}' }))
    await posthorn.startApi()
    await posthorn.startWorker()
    for (const name of ['einvoice', 'ewaybill', 'archive']) {
      const { body } = await posthorn.endpoint(name, `${receiver.url}/${name}`)
      secrets[name] = body.secret
    }
  })
  afterAll(async () => {
    await posthorn.close()
    await receiver.close()
  })

  async function requestOf(id: string) {
    const isOf = ({ headers }: Receiver['requests'][number]) => headers['webhook-id'] === id
    await receiver.waitFor((requests) => requests.some(isOf))
    return receiver.requests.find(isOf) as Receiver['requests'][number]
  }

  it('an e-way bill gets the number of its e-invoice, and the archive the whole result', async () => {
    const batch = `{"jobs":[
      {"endpoint":"einvoice","payload":{"total": 118.00}},
      {"endpoint":"ewaybill","payload":{ "km":1.0 },"needs":{"irn":"#0/result/irn"}},
      {"endpoint":"archive","payload":[${BIG}],
        "needs":{"whole":"#0","bill":{"job":"#1"},"letter":{"job":"#0","pointer":"/a"}}}]}`
    const { status, body } = await posthorn.request('POST', '/jobs/batch', batch)
    expect(status).toBe(200)
    const [invoice, bill, archive] = body.items.map(({ id }: { id: string }) => id)

    expect((await requestOf(invoice)).body.toString()).toBe('{"total": 118.00}')
    const request = await requestOf(bill)
    expect(request.body.toString()).toBe(`{"payload":{ "km":1.0 },"inputs":{"irn":${BIG}}}`)
    const expected = `{"payload":[${BIG}],"inputs":{"whole":${RESULT},"bill":{},"letter":"\\u0041"}}`
    expect((await requestOf(archive)).body.toString()).toBe(expected)

    const { headers, body: bytes } = request
    const signed = await verify({ headers, body: bytes }, secrets.ewaybill as string)
    expect(signed.jobId).toBe(bill)
    await posthorn.job(archive, 'succeeded')
  })
})
