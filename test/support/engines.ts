// The stores that tests run on, and how much of the tests a run does.
export const ENGINES = ['sqlite', 'mongo'] as const
export type Engine = (typeof ENGINES)[number]

/** Every run does a part of some files. npm run test:long does all of them. */
export const RUN_LONG = process.env.RUN_LONG === '1'

/** For tests that take long and depend little on the store. */
export const SQLITE_UNLESS_LONG: readonly Engine[] = RUN_LONG ? ENGINES : ['sqlite']
