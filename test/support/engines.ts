// The stores that tests run on, and how much of a run is played.
export const ENGINES = ['sqlite', 'mongo'] as const
export type Engine = (typeof ENGINES)[number]

/** Every run plays a part of some files, npm run test:long all of them. */
export const RUN_LONG = process.env.RUN_LONG === '1'

/** For what takes long and depends little on the store. */
export const SQLITE_UNLESS_LONG: readonly Engine[] = RUN_LONG ? ENGINES : ['sqlite']
