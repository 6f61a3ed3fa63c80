// Posts jobs as fast as they are accepted, over 64 connections. Arguments: URL of the API, number
// of jobs, value of the Prefer header (if any).
import { Client } from 'undici'
import { JOB_BODY, POSTING_CONNECTIONS } from './load.ts'

const [url, amount, prefer] = process.argv.slice(2) as [string, string, string?]
const headers = {
  'content-type': 'application/json',
  ...(prefer === undefined ? {} : { prefer }),
}
let left = Number(amount)
let refused = 0

/** One connection with one request at a time. undici's dispatch is its cheapest function. */
function post(client: Client): Promise<void> {
  return new Promise((resolve, reject) => {
    client.dispatch(
      { path: '/jobs', method: 'POST', headers, body: JOB_BODY },
      {
        onRequestStart() {},
        onResponseStart(_, status) {
          if (status !== 201) refused++
        },
        onResponseData() {},
        onResponseEnd: () => resolve(),
        onResponseError: (_, error) => reject(error),
      },
    )
  })
}

async function postUntilDone(client: Client): Promise<void> {
  while (left-- > 0) await post(client)
}

const clients = Array.from({ length: POSTING_CONNECTIONS }, () => new Client(url))
const startedAtMs = performance.now()
await Promise.all(clients.map(postUntilDone))
const seconds = (performance.now() - startedAtMs) / 1000
process.send?.({ seconds, refused })
await Promise.all(clients.map((client) => client.close()))
process.disconnect?.()
