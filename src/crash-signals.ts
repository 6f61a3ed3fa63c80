// Signals that the system sends to a process whose own instruction failed. Posthorn keeps their
// default action, which ends the process: a handler would return to the same instruction and fail
// again, forever.

export const CRASH_SIGNALS = [
  'SIGILL',
  'SIGTRAP',
  'SIGABRT',
  'SIGBUS',
  'SIGFPE',
  'SIGSEGV',
] as const
