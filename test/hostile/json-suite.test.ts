// JSON on which parsers disagree, as payloads: it is accepted and delivered byte for byte, or
// refused.
import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import { type Deployment, deploy } from '../support/deployment.ts'
import { SQLITE_UNLESS_LONG } from '../support/engines.ts'
import { type Receiver, startReceiver } from '../support/receiver.ts'
import { INVALID } from './invalid-json.ts'
import { type JsonCase, LEFT_TO_US, VALID } from './json-cases.ts'

const BEFORE = '{"endpoint":"work","payload":'

describe.each(SQLITE_UNLESS_LONG)('on %s', (engine) => {
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

  it('what every parser must take is delivered, and read, byte for byte', async () => {
    const ids = await Promise.all(VALID.map((one) => post(one)))
    expect(VALID.filter((_, i) => typeof ids[i] !== 'string')).toEqual([])
    await expectKept(VALID, ids as string[])
  })

  it('what no parser may take is refused as no JSON, alone and in a batch', async () => {
    const found = await Promise.all(INVALID.map((one) => post(one)))
    expect(INVALID.filter((_, i) => found[i] !== 400)).toEqual([])
    const batched = await Promise.all(
      INVALID.map(async ([, json]) => {
        const body = Buffer.concat([
          Buffer.from(`{"jobs":[${BEFORE}`),
          Buffer.from(json as string),
          Buffer.from('}]}'),
        ])
        return (await send('/jobs/batch', body)).status
      }),
    )
    expect(INVALID.filter((_, i) => batched[i] !== 400)).toEqual([])
  })

  it('what is left to the parser is refused, or delivered byte for byte', async () => {
    const found = await Promise.all(LEFT_TO_US.map((one) => post(one)))
    expect(LEFT_TO_US.filter((_, i) => typeof found[i] !== 'string' && found[i] !== 400)).toEqual(
      [],
    )
    const taken = LEFT_TO_US.filter((_, i) => typeof found[i] === 'string')
    // Accepted ones include numbers too large for any machine, and escaped lone surrogates.
    expect(taken.length).toBe(LEFT_TO_US.filter(([, json]) => isTaken(json)).length)
    await expectKept(
      taken,
      found.filter((one) => typeof one === 'string'),
    )
  })

  /** Returns the id of the job, or the status of the refusal. */
  async function post([, json]: JsonCase): Promise<string | number> {
    const body = Buffer.concat([Buffer.from(BEFORE), Buffer.from(json as string), Buffer.from('}')])
    const { status, text } = await send('/jobs', body)
    const answer = JSON.parse(text)
    if (status === 201) return answer.id
    expect(['invalid_json', 'invalid_request']).toContain(answer.code)
    return status
  }

  async function send(path: string, body: Buffer) {
    const answer = await fetch(posthorn.url() + path, {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: new Uint8Array(body),
    })
    return { status: answer.status, text: await answer.text() }
  }

  async function expectKept(cases: JsonCase[], ids: string[]): Promise<void> {
    const received = (id: string) =>
      receiver.requests.find(({ headers }) => headers['webhook-id'] === id)
    await receiver.waitFor(() => ids.every((id) => received(id) !== undefined), 15_000)
    await Promise.all(
      cases.map(async ([name, json], i) => {
        const id = ids[i] as string
        const sent = Buffer.from(json as string)
        expect([name, received(id)?.body]).toEqual([name, sent])
        const raw = await fetch(`${posthorn.url()}/jobs/${id}/payload`)
        expect([name, Buffer.from(await raw.arrayBuffer())]).toEqual([name, sent])
        const job = Buffer.from(await (await fetch(`${posthorn.url()}/jobs/${id}`)).arrayBuffer())
        expect([name, job.includes(Buffer.concat([Buffer.from('"payload":'), sent]))]).toEqual([
          name,
          true,
        ])
      }),
    )
  }
})

function isTaken(json: string | Buffer): boolean {
  return typeof json === 'string' && !json.startsWith('\ufeff') && !json.startsWith('[[')
}
