import { request } from 'node:http'
import { text } from 'node:stream/consumers'
import { describe, expect, it } from 'vitest'
import { useServedApp } from '../support/served-app.ts'

const served = useServedApp()

interface Answer {
  status: number
  allow: string | undefined
  body: string
}

/** Sends the path unchanged: fetch would normalize it. */
function send(method: string, path: string): Promise<Answer> {
  return new Promise((resolve, reject) => {
    request(`${served.url}${path}`, { method }, async (answer) => {
      const { statusCode: status = 0, headers } = answer
      resolve({ status, allow: headers.allow, body: await text(answer) })
    })
      .on('error', reject)
      .end()
  })
}

const LONG = 'x'.repeat(300)
const WIDE = encodeURIComponent('ṯ̈'.repeat(60))

it('the response to a method that no route has names those that there are, whatever the method needs elsewhere', async () => {
  expect(await send('QUERY', '/jobs')).toMatchObject({ status: 405 })
  expect(await send('QUERY', '/nowhere')).toMatchObject({ status: 404 })
})

it('the response to a path that could be an id names the methods of the path', async () => {
  const { status, allow } = await send('OPTIONS', '/jobs/batch')
  expect([status, allow]).toEqual([405, 'POST'])
})

describe('what generated requests have found: no request gets a 500', () => {
  it.each([
    ['GET', `/jobs/${LONG}`],
    ['POST', `/jobs/${WIDE}/copy`],
    ['PUT', `/endpoints/${LONG}`],
    ['DELETE', `/schedules/${LONG}`],
    ['GET', `/docs/${WIDE}`],
    ['QUERY', '/jobs'],
    ['QUERY', '/nowhere'],
    ['TRACE', '/jobs'],
  ])('%s %s', async (method, path) => {
    const { status, body } = await send(method, path)
    expect(status).toBeGreaterThanOrEqual(400)
    expect(status).toBeLessThan(500)
    expect(JSON.parse(body)).toMatchObject({ status, code: expect.stringMatching(/^[a-z_]+$/) })
  })
})
