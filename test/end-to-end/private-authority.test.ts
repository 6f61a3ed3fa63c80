// The promise of EXTRA_CA_CERTS: a worker that has the certificate of a private authority trusts
// its certificates.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:https'
import type { AddressInfo } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, expect, it } from 'vitest'
import { deploy } from '../support/deployment.ts'
import { openCertificateRoom } from '../webhook/certificates.ts'

const toClose: (() => unknown)[] = []
afterEach(async () => {
  for (const close of toClose.splice(0).reverse()) await close()
})

it('an endpoint with its certificate is a tls_error without it and is delivered to with it', async () => {
  const room = openCertificateRoom()
  toClose.push(room.remove)
  const authority = room.selfSigned()
  const bodies: string[] = []
  const url = await startHttps(authority.issue({ names: 'DNS:localhost' }), bodies)
  const posthorn = deploy('sqlite')
  toClose.push(posthorn.close)
  await posthorn.startApi()
  await posthorn.endpoint('private', url, { retry: { maxAttempts: 1 } })
  const deliver = async () => {
    const posted = await posthorn.request('POST', '/jobs', { endpoint: 'private', payload: 7 })
    return posthorn.job(posted.body.id, 'succeeded', 'dead')
  }

  const worker = await posthorn.startWorker()
  const failed = await deliver()
  expect(failed).toMatchObject({ state: 'dead', attempts: [{ outcome: 'tls_error' }] })
  expect(failed.attempts[0].errorCode).toBe('UNABLE_TO_VERIFY_LEAF_SIGNATURE')
  expect(failed.attempts[0].message).toContain('EXTRA_CA_CERTS')
  expect(bodies).toEqual([])
  await worker.stop()

  await posthorn.startWorker({ EXTRA_CA_CERTS: fileWith(authority.cert) })
  expect(await deliver()).toMatchObject({ state: 'succeeded', result: 'over TLS' })
  expect(bodies).toEqual(['7'])
})

function fileWith(text: string): string {
  const directory = mkdtempSync(join(tmpdir(), 'posthorn-authority-'))
  toClose.push(() => rmSync(directory, { recursive: true }))
  const path = join(directory, 'authority.pem')
  writeFileSync(path, text)
  return path
}

async function startHttps(identity: { key: string; cert: string }, bodies: string[]) {
  const { key, cert } = identity
  const server = createServer({ key, cert }, async (request, response) => {
    let body = ''
    for await (const chunk of request) body += chunk
    bodies.push(body)
    response.end('"over TLS"')
  })
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve)
  })
  toClose.push(() => {
    server.closeAllConnections()
    return new Promise((resolve) => server.close(resolve))
  })
  return `https://localhost:${(server.address() as AddressInfo).port}/`
}
