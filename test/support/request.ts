// One HTTP request to Posthorn, as the tests of the API send it.
import { expect } from 'vitest'
import type { RecordedAnswer } from './recorded-answers.ts'

export interface Answer {
  status: number
  headers: Headers
  text: string
  /** Parsed if it is JSON, else text. */
  // biome-ignore lint/suspicious/noExplicitAny: a test reads any field of a response
  body: any
}

/** A response that is awaited. `expect(status)` fails the test if the status is another one. */
export interface PendingAnswer extends Promise<Answer> {
  expect(status: number): Promise<Answer>
}

/** A body that is a string is sent unchanged, any other body as JSON. */
export type SendRequest = (
  method: string,
  path: string,
  body?: unknown,
  headers?: object,
) => PendingAnswer

/** @param onAnswer called with each response before the test gets it */
export function requestTo(
  url: () => string,
  onAnswer: (answer: RecordedAnswer) => void = () => {},
): SendRequest {
  async function ask(method: string, path: string, body: unknown, headers: object) {
    const text = body === undefined || typeof body === 'string' ? body : JSON.stringify(body)
    const response = await fetch(url() + path, {
      method,
      headers: {
        ...(text === undefined ? {} : { 'content-type': 'application/json' }),
        ...headers,
      },
      ...(text === undefined ? {} : { body: text }),
    })
    const { status, headers: names } = response
    const answer = { status, headers: names, text: await response.text() }
    onAnswer({ method, path, status, headers: Object.fromEntries(names), body: answer.text })
    const isJson = /json/.test(names.get('content-type') ?? '') && answer.text !== ''
    return { ...answer, body: isJson ? JSON.parse(answer.text) : answer.text }
  }

  return (method, path, body, headers = {}) => {
    const answer = ask(method, path, body, headers)
    return Object.assign(answer, {
      async expect(status: number) {
        const found = await answer
        expect(found.status, `${method} ${path}: ${found.text}`).toBe(status)
        return found
      },
    })
  }
}
