// Starts a program of the examples: listens, then registers its endpoints at Posthorn.
import { randomBytes } from 'node:crypto'
import { createServer, type RequestListener } from 'node:http'
import type { AddressInfo } from 'node:net'
import { Posthorn, PosthornError } from '../../src/client/client.ts'

const url = process.env.POSTHORN_URL ?? 'http://127.0.0.1:8080'
/** The client of the Posthorn server that the environment names. */
export const posthorn = new Posthorn({ url, key: process.env.POSTHORN_KEY })
/** A new secret at each start is enough: it is registered before anything is delivered. */
export const secret = process.env.POSTHORN_SECRET ?? `whsec_${randomBytes(32).toString('base64')}`

/** Listens on loopback, registers the endpoints with that address, and prints the port. */
export async function serve(
  listener: RequestListener,
  register: (baseUrl: string) => Promise<unknown>,
): Promise<void> {
  const server = createServer(listener)
  await new Promise<void>((resolve) => {
    server.listen(Number(process.env.PORT ?? 3000), '127.0.0.1', resolve)
  })
  const { port } = server.address() as AddressInfo
  try {
    await register(`http://127.0.0.1:${port}`)
  } catch (error) {
    if (!(error instanceof PosthornError)) throw error
    console.error(`the endpoints could not be registered at ${url}: ${error.message}`)
    process.exit(1)
  }
  console.log(`listening on port ${port}: http://127.0.0.1:${port}/`)
}
