// How openapi.json is made: from the zod schemas of the routes, never by hand.
import type { FastifyDynamicSwaggerOptions } from '@fastify/swagger'
import type { FastifySchema } from 'fastify'
import { z } from 'zod'
import { problemAnswer } from './answers.ts'
import { PROBLEM_TYPE } from './problem.ts'
import { jsonSchemaOf } from './zod-bridge.ts'

export function openapiOptions(version: string): FastifyDynamicSwaggerOptions {
  return {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'Posthorn',
        description:
          'A job queue over HTTP: post a job, it calls your webhook until the work is done.',
        version,
        license: { name: 'MIT', identifier: 'MIT' },
      },
      components: {
        securitySchemes: { key: { type: 'http', scheme: 'bearer' } },
      },
      security: [{ key: [] }, {}],
    },
    transform: ({ schema, url }) => ({ schema: described(schema), url }),
  }
}

/** A route's schema with every zod schema in it turned into JSON Schema, and its errors added. */
function described(schema: FastifySchema | undefined): FastifySchema {
  const { response, ...rest } = (schema ?? {}) as Record<string, unknown>
  const described = Object.fromEntries(
    Object.entries(rest).map(([part, value]) => [
      part,
      value instanceof z.ZodType ? jsonSchemaOf(value) : value,
    ]),
  )
  const answers = Object.entries((response ?? {}) as Record<string, z.ZodType>).map(
    ([status, answer]) => [status, { ...jsonSchemaOf(answer), description: 'as asked' }],
  )
  return {
    ...described,
    response: {
      ...Object.fromEntries(answers),
      default: {
        description: 'a problem (RFC 9457)',
        content: { [PROBLEM_TYPE]: { schema: jsonSchemaOf(problemAnswer) } },
      },
    },
  } as FastifySchema
}
