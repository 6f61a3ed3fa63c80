/** npm run test:long sets it: of some files every run plays a part only. */
export const RUN_LONG = process.env.RUN_LONG === '1'
