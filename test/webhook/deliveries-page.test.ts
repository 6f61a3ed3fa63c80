// docs/deliveries.md is the contract for handlers: its requests verify, its snippets run, and its
// table of responses has the statuses of the code.
import { execFileSync, spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { Webhook } from 'standardwebhooks'
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest'
import { VerificationError, verify } from '../../src/client/verify.ts'
import { STATUS_MEANINGS } from '../../src/webhook/outcome.ts'

const PAGE = readFileSync(join(import.meta.dirname, '../../docs/deliveries.md'), 'utf8')
const blocks = (language: string) =>
  [...PAGE.matchAll(new RegExp(`^\`\`\`${language}\n(.*?)^\`\`\``, 'gms'))].map(
    ([, text]) => text as string,
  )
const input = (name: string) => {
  const [, value] = new RegExp(`^\\| ${name} \\| \`(.+)\` \\|$`, 'm').exec(PAGE) ?? []
  return value as string
}

const [delivery, ping] = blocks('http').map(requestFrom) as [Printed, Printed]
const secret = input('secret')
const timestampSeconds = Number(input('`webhook-timestamp`'))

interface Printed {
  headers: Record<string, string>
  body: string
}

function requestFrom(text: string): Printed {
  const [head = '', body = ''] = text.trimEnd().split('\n\n')
  const lines = head.split('\n').slice(1)
  const headers = Object.fromEntries(lines.map((line) => line.split(/: (.*)/s).slice(0, 2)))
  return { headers, body }
}

// The clock shows the time at which the examples were signed. Everything else is as in a handler.
beforeEach(() => void vi.useFakeTimers({ toFake: ['Date'], now: timestampSeconds * 1_000 }))
afterEach(() => void vi.useRealTimers())

describe('the worked example', () => {
  it('has the inputs of the request that the page shows', () => {
    expect(delivery.headers).toMatchObject({
      'webhook-id': input('`webhook-id`'),
      'webhook-timestamp': input('`webhook-timestamp`'),
      'content-length': String(delivery.body.length),
    })
    expect(delivery.body).toBe(input('body'))
    expect(blocks('text')).toEqual([`${delivery.headers['webhook-signature']}\n`])
  })

  it('verifies with verify of our client', async () => {
    expect(await verify(delivery, secret)).toMatchObject({
      jobId: input('`webhook-id`'),
      endpoint: 'invoice-pdf',
      isTest: false,
      payload: { invoice: 42 },
    })
    const changed = { ...delivery, body: '{"invoice":43}' }
    await expect(verify(changed, secret)).rejects.toBeInstanceOf(VerificationError)
  })

  it('verifies with the library of Standard Webhooks', () => {
    const webhook = new Webhook(secret)
    expect(webhook.verify(delivery.body, delivery.headers)).toEqual({ invoice: 42 })
    expect(() => webhook.verify('{"invoice":43}', delivery.headers)).toThrow()
  })

  it('is what the JavaScript prints', () => {
    const [script = ''] = blocks('js')
    const node = [process.execPath, '--input-type=module', '-e', script] as const
    expect(execFileSync(node[0], node.slice(1)).toString()).toBe(blocks('text')[0])
  })

  const hasPython = spawnSync('python3', ['--version']).status === 0
  it.skipIf(!hasPython)('is what the Python prints', () => {
    const [script = ''] = blocks('python')
    expect(execFileSync('python3', ['-c', script]).toString()).toBe(blocks('text')[0])
  })
})

it('the test ping verifies too, and is known as one', async () => {
  expect(await verify(ping, secret)).toMatchObject({
    jobId: expect.stringMatching(/^ping_/),
    isTest: true,
    payload: { type: 'posthorn.test' },
  })
  expect(new Webhook(secret).verify(ping.body, ping.headers)).toEqual({ type: 'posthorn.test' })
})

it('the table of responses has every status that decides by itself', () => {
  const [, section = ''] = PAGE.split('## The response')
  const [table = ''] = section.split('\n\n').filter((part) => part.startsWith('| response'))
  const statuses = [...table.matchAll(/\b[3-5]\d\d\b/g)].map(([status]) => Number(status))
  const decided = [...STATUS_MEANINGS.rejected, ...STATUS_MEANINGS.throttled]
  expect(new Set(statuses)).toEqual(new Set([...decided, 300]))
})
