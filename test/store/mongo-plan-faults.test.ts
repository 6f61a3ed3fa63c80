// The problems of a plan of MongoDB, read from the reply to `explain`. The replies have the shapes
// that mongod documents and that its own tests print:
// https://www.mongodb.com/docs/manual/reference/explain-results/
import type { Document } from 'mongodb'
import { describe, expect, it } from 'vitest'
import {
  accessesOf,
  checkPlan,
  explainableParts,
  type PlanFault,
} from '../../src/store/mongo/plan.ts'

const NAMESPACE = 'queue.posthorn_jobs'

function faultsOf(explained: Document, allowed?: PlanFault[]): PlanFault[] {
  return checkPlan(explained, allowed).map(({ fault }) => fault)
}

/** The reply to the explain of a find, from the classic engine. */
function explainedFind(
  parsedQuery: Document,
  winningPlan: Document,
  executionStats?: Document,
): Document {
  return {
    explainVersion: '1',
    queryPlanner: {
      namespace: NAMESPACE,
      indexFilterSet: false,
      parsedQuery,
      maxIndexedOrSolutionsReached: false,
      winningPlan: { isCached: false, ...winningPlan },
      rejectedPlans: [],
    },
    ...(executionStats === undefined ? {} : { executionStats }),
    command: { find: 'posthorn_jobs', filter: {}, sort: { _id: 1 }, $db: 'queue' },
    serverInfo: { host: 'a', port: 27017, version: '8.0.4' },
    ok: 1,
  }
}

function scan(indexName: string, indexBounds: Document, rest: Document = {}): Document {
  const fields = Object.keys(indexBounds)
  return {
    stage: 'IXSCAN',
    keyPattern: Object.fromEntries(fields.map((field) => [field, 1])),
    indexName,
    isMultiKey: false,
    multiKeyPaths: Object.fromEntries(fields.map((field) => [field, []])),
    isUnique: false,
    isSparse: false,
    isPartial: true,
    indexVersion: 2,
    direction: 'forward',
    indexBounds,
    ...rest,
  }
}

/** The counts of a plan whose stages all return the same number. */
function counts(nReturned: number, keys: number, documents: number): Document {
  return {
    executionSuccess: true,
    nReturned,
    executionTimeMillis: 1,
    totalKeysExamined: keys,
    totalDocsExamined: documents,
    executionStages: {
      stage: 'FETCH',
      nReturned,
      docsExamined: documents,
      inputStage: { stage: 'IXSCAN', nReturned: documents, keysExamined: keys },
    },
  }
}

const ENDPOINT = { endpoint: { $eq: 'a' } }
const BY_ENDPOINT = scan('by_endpoint', {
  endpoint: ['["a", "a"]'],
  _id: ['[MinKey, MaxKey]'],
})

describe('a plan without a fault', () => {
  const covered = explainedFind(
    { $and: [{ endpoint: { $eq: 'a' } }, { state: { $eq: 'queued' } }] },
    {
      stage: 'PROJECTION_COVERED',
      transformBy: { _id: 1, payloadBytes: 1 },
      inputStage: scan('claim', {
        endpoint: ['["a", "a"]'],
        state: ['["queued", "queued"]'],
        priority: ['[MaxKey, MinKey]'],
      }),
    },
    counts(20, 20, 0),
  )

  it('may read a field from end to end that the query does not name', () => {
    expect(checkPlan(covered)).toEqual([])
  })

  it('shows its indexes, bounds and counts', () => {
    expect(accessesOf(covered)).toEqual([
      {
        namespace: NAMESPACE,
        fields: ['endpoint', 'state'],
        stages: ['PROJECTION_COVERED', 'IXSCAN'],
        scans: [
          {
            index: 'claim',
            bounds: {
              endpoint: ['["a", "a"]'],
              state: ['["queued", "queued"]'],
              priority: ['[MaxKey, MinKey]'],
            },
          },
        ],
        counts: { results: 20, keysExamined: 20, documentsExamined: 0 },
      },
    ])
  })

  it.each([
    [{ stage: 'IDHACK' }, '_id_'],
    [{ stage: 'EXPRESS_IXSCAN', keyPattern: '{ _id: 1 }', indexName: '_id_' }, '_id_'],
  ])('looks a document up by its id: %o', (plan, index) => {
    const explained = explainedFind({ _id: { $eq: 'a' } }, plan)
    expect(checkPlan(explained)).toEqual([])
    expect(accessesOf(explained)[0]?.scans).toEqual([{ index, bounds: {} }])
  })

  it('does not depend on the plans that lost, nor by the command', () => {
    const explained = explainedFind(ENDPOINT, { stage: 'FETCH', inputStage: BY_ENDPOINT })
    explained.queryPlanner.rejectedPlans = [{ stage: 'SORT', inputStage: { stage: 'COLLSCAN' } }]
    explained.command = { aggregate: 'posthorn_jobs', pipeline: [{ $sort: { _id: 1 } }] }
    expect(checkPlan(explained)).toEqual([])
  })
})

describe('a collection that is read from end to end', () => {
  it('is found in a plan of the classic engine', () => {
    const explained = explainedFind(ENDPOINT, { stage: 'COLLSCAN', direction: 'forward' })
    expect(checkPlan(explained)).toEqual([
      { fault: 'collection_scan', message: `${NAMESPACE} is read from end to end` },
    ])
  })

  it('is found in a plan of the other engine', () => {
    const explained = explainedFind(ENDPOINT, {
      queryPlan: { stage: 'GROUP', inputStage: { stage: 'COLLSCAN', direction: 'forward' } },
      slotBasedPlan: { slots: '$$RESULT=s5 env: { }', stages: '[1] scan s5 s6 none none' },
    })
    expect(faultsOf(explained)).toEqual(['collection_scan'])
  })
})

describe('a sort in memory', () => {
  it('is found in the plan', () => {
    const sort = { stage: 'SORT', sortPattern: { _id: -1 }, memLimit: 104857600, type: 'simple' }
    const explained = explainedFind(ENDPOINT, {
      ...sort,
      inputStage: { stage: 'FETCH', inputStage: BY_ENDPOINT },
    })
    expect(faultsOf(explained)).toEqual(['sort'])
  })

  it('is found among the other stages of a pipeline', () => {
    const { queryPlanner } = explainedFind(ENDPOINT, BY_ENDPOINT)
    const explained = {
      explainVersion: '1',
      stages: [
        { $cursor: { queryPlanner } },
        { $group: { _id: '$endpoint' } },
        { $sort: { sortKey: { _id: 1 } }, usedDisk: false },
      ],
    }
    expect(faultsOf(explained)).toEqual(['sort'])
  })

  it('is not a merge of ordered scans', () => {
    const inputStages = [BY_ENDPOINT, BY_ENDPOINT]
    const explained = explainedFind(ENDPOINT, {
      stage: 'FETCH',
      inputStage: { stage: 'SORT_MERGE', sortPattern: { _id: -1 }, inputStages },
    })
    expect(checkPlan(explained)).toEqual([])
    expect(accessesOf(explained)[0]?.scans).toHaveLength(2)
  })
})

describe('a field that the query names', () => {
  // mongod plans { endpoint, 'keys.key': { $in: […], $exists: true } } like this (SERVER-12281).
  const keys = (direction: string[]) =>
    explainedFind(
      {
        $and: [
          { endpoint: { $eq: 'a' } },
          { 'keys.key': { $in: ['k1', 'k2'] } },
          { 'keys.key': { $exists: true } },
        ],
      },
      {
        stage: 'FETCH',
        filter: { 'keys.key': { $in: ['k1', 'k2'] } },
        inputStage: scan(
          'keys',
          { endpoint: ['["a", "a"]'], 'keys.key': direction },
          { isMultiKey: true, multiKeyPaths: { endpoint: [], 'keys.key': ['keys'] } },
        ),
      },
    )

  it.each(['[MinKey, MaxKey]', '[MaxKey, MinKey]'])('must have bounds, not %s', (interval) => {
    expect(checkPlan(keys([interval]))).toEqual([
      { fault: 'unbounded_field', message: 'the index keys is read for all values of keys.key' },
    ])
  })

  it('may have several', () => {
    expect(checkPlan(keys(['["k1", "k1"]', '["k2", "k2"]']))).toEqual([])
  })
})

describe('the keys that are examined', () => {
  const plan = { stage: 'FETCH', inputStage: BY_ENDPOINT }

  it('may be two for each result', () => {
    expect(checkPlan(explainedFind(ENDPOINT, plan, counts(10, 22, 20)))).toEqual([])
    expect(checkPlan(explainedFind(ENDPOINT, plan, counts(10, 23, 22)))).toEqual([
      { fault: 'many_keys', message: `23 index keys of ${NAMESPACE} are read for 10 results` },
    ])
  })

  it('may be two more for each range', () => {
    const keys = ['["k1", "k1"]', '["k2", "k2"]', '["k3", "k3"]']
    const ranges = scan('keys', { endpoint: ['["a", "a"]'], 'keys.key': keys })
    const parsed = { $and: [ENDPOINT, { 'keys.key': { $in: ['k1', 'k2', 'k3'] } }] }
    const found = (examined: number) =>
      faultsOf(
        explainedFind(parsed, { stage: 'FETCH', inputStage: ranges }, counts(0, examined, 0)),
      )
    expect(found(6)).toEqual([])
    expect(found(7)).toEqual(['many_keys'])
  })

  it.each([
    ['SKIP', { skipAmount: 9_999 }],
    ['GROUP', {}],
    ['group', {}],
    ['limitskip', { limit: 1, skip: 9_999 }],
    ['UPDATE', { nMatched: 10_000, nWouldModify: 10_000 }],
  ])('are compared with what the stage %s is given', (stage, rest) => {
    const executionStages = (given: number) => ({
      stage: 'LIMIT',
      nReturned: 1,
      inputStage: {
        stage,
        nReturned: 1,
        ...rest,
        inputStage: { stage: 'IXSCAN', nReturned: given, keysExamined: 10_000 },
      },
    })
    const stats = (given: number) => ({
      ...counts(1, 10_000, 0),
      executionStages: executionStages(given),
    })
    expect(checkPlan(explainedFind(ENDPOINT, plan, stats(10_000)))).toEqual([])
    expect(faultsOf(explainedFind(ENDPOINT, plan, stats(1)))).toEqual(['many_keys'])
  })

  it('are not checked if the plan was not carried out', () => {
    const explained = explainedFind(ENDPOINT, plan)
    expect(checkPlan(explained)).toEqual([])
    expect(accessesOf(explained)[0]?.counts).toBeNull()
  })
})

describe('a command that reads several times', () => {
  const read = (winningPlan: Document, stats: Document) => {
    const { queryPlanner, executionStats } = explainedFind(ENDPOINT, winningPlan, stats)
    return { $cursor: { queryPlanner, executionStats }, nReturned: 1 }
  }

  it('is checked in each pipeline of an aggregate', () => {
    const explained = {
      explainVersion: '1',
      stages: [
        read({ stage: 'FETCH', inputStage: BY_ENDPOINT }, counts(1, 1, 1)),
        {
          $unionWith: {
            coll: 'posthorn_jobs',
            pipeline: [
              read({ stage: 'COLLSCAN', direction: 'forward' }, counts(1, 0, 50)),
              { $group: { _id: '$endpoint' }, nReturned: 1 },
            ],
          },
        },
      ],
      command: { aggregate: 'posthorn_jobs' },
    }
    expect(accessesOf(explained)).toHaveLength(2)
    expect(faultsOf(explained)).toEqual(['collection_scan'])
  })

  it('is checked on each shard', () => {
    const onShard = (shardName: string, winningPlan: Document) => ({
      shardName,
      connectionString: `${shardName}/a:27017`,
      namespace: NAMESPACE,
      parsedQuery: ENDPOINT,
      winningPlan,
      rejectedPlans: [],
    })
    const shardStats = (shardName: string, stats: Document) => ({ shardName, ...stats })
    const explained = {
      queryPlanner: {
        mongosPlannerVersion: 1,
        winningPlan: {
          stage: 'SHARD_MERGE',
          shards: [
            onShard('one', { stage: 'FETCH', inputStage: BY_ENDPOINT }),
            onShard('two', { stage: 'COLLSCAN', direction: 'forward' }),
          ],
        },
      },
      executionStats: {
        nReturned: 30,
        totalKeysExamined: 501,
        totalDocsExamined: 600,
        executionStages: {
          stage: 'SHARD_MERGE',
          nReturned: 30,
          shards: [shardStats('one', counts(10, 501, 500)), shardStats('two', counts(20, 0, 100))],
        },
      },
    }
    expect(faultsOf(explained)).toEqual(['many_keys', 'collection_scan'])
  })
})

it('a fault that is allowed is not reported', () => {
  const explained = explainedFind(
    ENDPOINT,
    { stage: 'SORT', inputStage: { stage: 'FETCH', inputStage: BY_ENDPOINT } },
    counts(1, 100, 100),
  )
  expect(faultsOf(explained)).toEqual(['sort', 'many_keys'])
  expect(faultsOf(explained, ['sort'])).toEqual(['many_keys'])
})

it('a reply without a plan is not taken for a good one', () => {
  expect(() => checkPlan({ ok: 1 })).toThrow('the reply to explain has no plan')
})

describe('a command is explained in parts', () => {
  const driverFields = { lsid: {}, $db: 'queue', maxTimeMS: 10, writeConcern: { w: 'majority' } }

  it('of an aggregate, each pipeline, as mongod can end when it explains a $unionWith', () => {
    const union = { $unionWith: { coll: 'a', pipeline: [{ $match: { y: 1 } }] } }
    const pipeline = [{ $match: { x: 1 } }, { $limit: 1 }, union]
    const command = { aggregate: 'a', pipeline, cursor: { batchSize: 5 } }
    expect(explainableParts({ ...command, ...driverFields })).toEqual([
      { ...command, pipeline: [{ $match: { x: 1 } }, { $limit: 1 }] },
      { ...command, pipeline: [{ $match: { y: 1 } }] },
    ])
  })

  it('of a batch of writes, one at a time', () => {
    const updates = [1, 2].map((_id) => ({ q: { _id }, u: { $set: { x: 1 } } }))
    expect(explainableParts({ update: 'a', updates, ...driverFields })).toEqual(
      updates.map((one) => ({ update: 'a', updates: [one] })),
    )
    const deletes = [1, 2].map((_id) => ({ q: { _id }, limit: 1 }))
    expect(explainableParts({ delete: 'a', deletes })).toHaveLength(2)
  })
})
