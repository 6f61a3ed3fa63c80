// Every generated file equals what the code would generate now.
import { readFileSync } from 'node:fs'
import { describe, expect, it } from 'vitest'
import { pages } from '../docs/generated-tables.ts'
import { OPENAPI_PATH, openapiText } from '../openapi/generate.ts'

describe('generated files', () => {
  it.each(pages())('the tables of $page are fresh (npm run docs)', ({ found, expected }) => {
    expect(found).toBe(expected)
  })

  it('openapi.json is fresh (npm run openapi)', async () => {
    expect(readFileSync(OPENAPI_PATH, 'utf8')).toBe(await openapiText())
  })
})
