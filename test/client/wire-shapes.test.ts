// The client imports nothing from the server, so the wire format is defined twice. These tests
// compare both definitions, mostly by the type checker.
import { describe, expect, expectTypeOf, it } from 'vitest'
import type { z } from 'zod'
import type { bulkBody } from '../../routes/jobs/bulk.ts'
import * as completion from '../../routes/jobs/completion.ts'
import type { ExplainReason } from '../../routes/jobs/explain.ts'
import type { jobsQuery } from '../../routes/jobs/routes.ts'
import { RESPONSES as answers } from '../../routes/pages/openapi.ts'
import type * as client from '../../src/client/client.ts'
import type { Delivery } from '../../src/client/client.ts'
import { API_ERROR_CODES, CLIENT_ERROR_CODES } from '../../src/client/posthorn-error.ts'
import * as reports from '../../src/client/report-text.ts'
import type { ObjectCheck } from '../../src/client/response-check.ts'
import * as checks from '../../src/client/response-check.ts'
import { ERRORS } from '../../src/errors.ts'
import type { GroupState } from '../../src/job/groups.ts'
import type * as job from '../../src/job/job.ts'
import type { endpointBody, endpointChange } from '../../src/wire/endpoints.ts'
import type { groupBody } from '../../src/wire/groups.ts'
import type { batchJobBody, editBody } from '../../src/wire/jobs.ts'
import type { limitBody } from '../../src/wire/limits.ts'
import type { scheduleBody } from '../../src/wire/schedules.ts'

/** The names of all fields, from every member of a union. */
type Names<T> = T extends unknown ? keyof T : never
type Answer<Name extends keyof typeof answers> = z.output<(typeof answers)[Name]>

describe('the client knows', () => {
  it('every code of the API', () => {
    expect([...API_ERROR_CODES].sort()).toEqual(Object.keys(ERRORS).sort())
    for (const code of CLIENT_ERROR_CODES) expect(ERRORS).not.toHaveProperty(code)
  })

  it('the longest messages of a report', () => {
    expect(reports.MAX_FAIL_MESSAGE).toBe(completion.MAX_FAIL_MESSAGE)
    expect(reports.MAX_PROGRESS_MESSAGE).toBe(completion.MAX_PROGRESS_MESSAGE)
  })

  it('every word for states, outcomes, failures and reasons', () => {
    expectTypeOf<client.JobState>().toEqualTypeOf<job.JobState>()
    expectTypeOf<client.Outcome>().toEqualTypeOf<job.Outcome>()
    expectTypeOf<client.FailureReason>().toEqualTypeOf<job.FailureReason>()
    expectTypeOf<client.ExplainReason>().toEqualTypeOf<ExplainReason>()
    expectTypeOf<client.Endpoint['state']>().toEqualTypeOf<Answer<'endpointResponse'>['state']>()
  })

  it('every field of a response', () => {
    expectTypeOf<keyof client.Job | 'deduplicated'>().toEqualTypeOf<keyof Answer<'jobResponse'>>()
    expectTypeOf<keyof client.MinimalJob>().toEqualTypeOf<keyof Answer<'minimalJobResponse'>>()
    expectTypeOf<keyof client.RetriedJob | 'deduplicated'>().toEqualTypeOf<
      keyof Answer<'retriedJobResponse'>
    >()
    expectTypeOf<keyof client.JobSummary>().toEqualTypeOf<keyof Answer<'jobSummaryResponse'>>()
    expectTypeOf<keyof client.Attempt>().toEqualTypeOf<
      keyof Answer<'jobResponse'>['attempts'][number]
    >()
    expectTypeOf<keyof client.Endpoint>().toEqualTypeOf<keyof Answer<'endpointResponse'>>()
    expectTypeOf<keyof client.ListedEndpoint>().toEqualTypeOf<
      keyof Answer<'endpointListResponse'>['items'][number]
    >()
    expectTypeOf<keyof client.SharedLimit>().toEqualTypeOf<keyof Answer<'limitResponse'>>()
    expectTypeOf<keyof client.ListedSharedLimit>().toEqualTypeOf<
      keyof Answer<'limitListResponse'>['items'][number]
    >()
    expectTypeOf<keyof client.CreatedGroup>().toEqualTypeOf<keyof Answer<'groupResponse'>>()
    expectTypeOf<keyof client.ListedGroup>().toEqualTypeOf<
      keyof Answer<'groupListResponse'>['items'][number]
    >()
    expectTypeOf<client.GroupState>().toEqualTypeOf<GroupState>()
    expectTypeOf<keyof client.PingResult>().toEqualTypeOf<keyof Answer<'testResponse'>>()
    expectTypeOf<keyof client.BulkResult>().toEqualTypeOf<keyof Answer<'bulkResponse'>>()
    expectTypeOf<keyof client.Explanation>().toEqualTypeOf<keyof Answer<'explainResponse'>>()
    expectTypeOf<keyof client.ApiKey>().toEqualTypeOf<
      keyof Answer<'keyListResponse'>['items'][number]
    >()
    expectTypeOf<keyof client.WorkerView>().toEqualTypeOf<
      keyof Answer<'workerListResponse'>['items'][number]
    >()
    expectTypeOf<Names<client.BatchItem>>().toEqualTypeOf<
      Names<Answer<'batchResponse'>['items'][number]> | 'idempotencyKey'
    >()
    expectTypeOf<keyof client.ClaimedJob | 'deduplicated'>().toEqualTypeOf<
      keyof Answer<'claimResponse'>['jobs'][number]
    >()
  })

  it('of each response only fields that the API always sends, null where it may be', () => {
    const page = (items: z.ZodType) => (items as unknown as z.ZodArray<z.ZodObject>).element
    const pairs: [string, ObjectCheck, z.ZodType][] = [
      ['JOB_SUMMARY', checks.JOB_SUMMARY, answers.jobSummaryResponse],
      ['ATTEMPT', checks.ATTEMPT, page(answers.jobResponse.shape.attempts)],
      ['JOB', checks.JOB, answers.jobResponse],
      ['MINIMAL_JOB', checks.MINIMAL_JOB, answers.minimalJobResponse],
      ['RETRIED_JOB', checks.RETRIED_JOB, answers.retriedJobResponse],
      ['CLAIMED_JOB', checks.CLAIMED_JOB, page(answers.claimResponse.shape.jobs)],
      ['APPLIED', checks.APPLIED, answers.appliedResponse],
      ['HEARTBEAT', checks.HEARTBEAT, answers.heartbeatResponse],
      ['BULK', checks.BULK, answers.bulkResponse],
      ['EXPLANATION', checks.EXPLANATION, answers.explainResponse],
      ['ENDPOINT', checks.ENDPOINT, answers.endpointResponse],
      ['LISTED_ENDPOINT', checks.LISTED_ENDPOINT, page(answers.endpointListResponse.shape.items)],
      ['FAIRNESS_KEY', checks.FAIRNESS_KEY, page(answers.fairnessKeyListResponse.shape.items)],
      ['LIMIT', checks.LIMIT, answers.limitResponse],
      ['LISTED_LIMIT', checks.LISTED_LIMIT, page(answers.limitListResponse.shape.items)],
      ['GROUP', checks.GROUP, answers.groupResponse],
      ['LISTED_GROUP', checks.LISTED_GROUP, page(answers.groupListResponse.shape.items)],
      ['PING', checks.PING, answers.testResponse],
      ['SCHEDULE', checks.SCHEDULE, answers.scheduleResponse],
      ['SCHEDULE_SUMMARY', checks.SCHEDULE_SUMMARY, page(answers.scheduleListResponse.shape.items)],
      ['API_KEY', checks.API_KEY, answers.keyResponse],
      ['NEW_API_KEY', checks.NEW_API_KEY, answers.newKeyResponse],
      ['WORKER', checks.WORKER, page(answers.workerListResponse.shape.items)],
      ['STATS', checks.STATS, answers.statsResponse],
      ['ENDPOINT_STATS', checks.ENDPOINT_STATS, page(answers.statsResponse.shape.endpoints)],
    ]
    for (const [what, check, answer] of pairs) {
      const { shape } = answer as z.ZodObject
      for (const [field, checkField] of Object.entries(check.fields)) {
        const sent = shape[field] as z.ZodType | undefined
        expect([what, field, sent === undefined]).toEqual([what, field, false])
        const isRefused = (value: unknown) => checkField(value, '') !== null
        const isSent = (value: unknown) => sent?.safeParse(value).success === true
        expect([what, field, isSent(undefined) && isRefused(undefined)]).toEqual([
          what,
          field,
          isAny(field),
        ])
        // Instants are described as nullable in every place.
        if (!/(At|After|minute|asOf)$/.test(field))
          expect([what, field, isSent(null) && isRefused(null)]).toEqual([what, field, false])
      }
    }
    // Whether the field can be any JSON: a schema cannot distinguish it from a missing value.
    function isAny(field: string): boolean {
      return field === 'payload' || field === 'result'
    }
  })

  it('every field of a schedule', () => {
    expectTypeOf<keyof client.Schedule>().toEqualTypeOf<keyof Answer<'scheduleResponse'>>()
    expectTypeOf<keyof client.ScheduleSummary>().toEqualTypeOf<
      keyof Answer<'scheduleListResponse'>['items'][number]
    >()
    expectTypeOf<Names<client.ScheduleSettings>>().toEqualTypeOf<
      keyof z.input<typeof scheduleBody> | 'rawPayload'
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
    expectTypeOf<keyof client.SharedLimitSettings>().toEqualTypeOf<
      keyof z.input<typeof limitBody>
    >()
    expectTypeOf<keyof client.GroupSettings>().toEqualTypeOf<
      keyof NonNullable<z.input<typeof groupBody>>
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
