// The client imports nothing of the server, so that what it knows of the wire is written twice:
// here the two are compared, most of it by the type checker.
import { describe, expect, expectTypeOf, it } from 'vitest'
import type { z } from 'zod'
import type * as answers from '../../routes/answers.ts'
import type { endpointBody, endpointChange } from '../../routes/endpoint-schemas.ts'
import type { batchJobBody, bulkBody, editBody, jobsQuery } from '../../routes/job-schemas.ts'
import * as jobSchemas from '../../routes/job-schemas.ts'
import type * as schedules from '../../routes/schedule-schemas.ts'
import type * as client from '../../src/client/client.ts'
import type { Delivery } from '../../src/client/client.ts'
import { API_ERROR_CODES, CLIENT_ERROR_CODES } from '../../src/client/posthorn-error.ts'
import * as reports from '../../src/client/report-text.ts'
import { ERRORS } from '../../src/errors.ts'
import type * as job from '../../src/job/job.ts'

/** The names of all fields, of whichever member of a union. */
type Names<T> = T extends unknown ? keyof T : never
type Answer<Name extends keyof typeof answers> = (typeof answers)[Name] extends z.ZodType
  ? z.output<(typeof answers)[Name]>
  : never

describe('the client knows', () => {
  it('every code of the API', () => {
    expect([...API_ERROR_CODES].sort()).toEqual(Object.keys(ERRORS).sort())
    for (const code of CLIENT_ERROR_CODES) expect(ERRORS).not.toHaveProperty(code)
  })

  it('the longest messages of a report', () => {
    expect(reports.MAX_FAIL_MESSAGE).toBe(jobSchemas.MAX_FAIL_MESSAGE)
    expect(reports.MAX_PROGRESS_MESSAGE).toBe(jobSchemas.MAX_PROGRESS_MESSAGE)
  })

  it('every word for states, outcomes, failures and reasons', () => {
    expectTypeOf<client.JobState>().toEqualTypeOf<job.JobState>()
    expectTypeOf<client.Outcome>().toEqualTypeOf<job.Outcome>()
    expectTypeOf<client.FailureReason>().toEqualTypeOf<job.FailureReason>()
    expectTypeOf<client.ExplainReason>().toEqualTypeOf<answers.ExplainReason>()
    expectTypeOf<client.Endpoint['state']>().toEqualTypeOf<Answer<'endpointAnswer'>['state']>()
  })

  it('every field of an answer', () => {
    expectTypeOf<keyof client.Job | 'deduplicated'>().toEqualTypeOf<keyof Answer<'jobAnswer'>>()
    expectTypeOf<keyof client.RetriedJob | 'deduplicated'>().toEqualTypeOf<
      keyof Answer<'retriedJobAnswer'>
    >()
    expectTypeOf<keyof client.JobSummary>().toEqualTypeOf<keyof Answer<'jobSummaryAnswer'>>()
    expectTypeOf<keyof client.Attempt>().toEqualTypeOf<
      keyof Answer<'jobAnswer'>['attempts'][number]
    >()
    expectTypeOf<keyof client.Endpoint>().toEqualTypeOf<keyof Answer<'endpointAnswer'>>()
    expectTypeOf<keyof client.PingResult>().toEqualTypeOf<keyof Answer<'testAnswer'>>()
    expectTypeOf<keyof client.BulkResult>().toEqualTypeOf<keyof Answer<'bulkAnswer'>>()
    expectTypeOf<keyof client.Explanation>().toEqualTypeOf<keyof Answer<'explainAnswer'>>()
    expectTypeOf<keyof client.ApiKey>().toEqualTypeOf<
      keyof Answer<'keyListAnswer'>['items'][number]
    >()
    expectTypeOf<keyof client.WorkerView>().toEqualTypeOf<
      keyof Answer<'workerListAnswer'>['items'][number]
    >()
    expectTypeOf<Names<client.BatchItem>>().toEqualTypeOf<
      Names<Answer<'batchAnswer'>['items'][number]> | 'idempotencyKey'
    >()
    expectTypeOf<keyof client.ClaimedJob | 'deduplicated'>().toEqualTypeOf<
      keyof Answer<'claimAnswer'>['jobs'][number]
    >()
  })

  it('every field of a schedule', () => {
    expectTypeOf<keyof client.Schedule>().toEqualTypeOf<
      keyof z.output<typeof schedules.scheduleAnswer>
    >()
    expectTypeOf<keyof client.ScheduleSummary>().toEqualTypeOf<
      keyof z.output<typeof schedules.scheduleListAnswer>['items'][number]
    >()
    expectTypeOf<Names<client.ScheduleSettings>>().toEqualTypeOf<
      keyof z.input<typeof schedules.scheduleBody> | 'rawPayload'
    >()
  })

  it('every field of a request', () => {
    expectTypeOf<Names<client.NewJob>>().toEqualTypeOf<
      keyof z.input<typeof batchJobBody> | 'rawPayload'
    >()
    expectTypeOf<keyof client.JobChange>().toEqualTypeOf<
      keyof z.input<typeof editBody> | 'rawPayload'
    >()
    expectTypeOf<keyof client.EndpointSettings>().toEqualTypeOf<
      keyof z.input<typeof endpointBody>
    >()
    expectTypeOf<keyof client.EndpointChange>().toEqualTypeOf<
      keyof z.input<typeof endpointChange>
    >()
    expectTypeOf<keyof client.JobQuery | 'cursor'>().toEqualTypeOf<
      keyof z.input<typeof jobsQuery>
    >()
    expectTypeOf<keyof client.JobFilter>().toEqualTypeOf<keyof z.input<typeof bulkBody>['filter']>()
  })

  it('the payload by the type that its caller names', () => {
    expectTypeOf<Delivery<{ invoice: number }>['payload']>().toEqualTypeOf<{ invoice: number }>()
    expectTypeOf<client.Job<string, { pages: number }>['result']>().toEqualTypeOf<{
      pages: number
    } | null>()
  })
})
