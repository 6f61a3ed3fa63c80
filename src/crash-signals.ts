// Signals that the system sends to a process whose own instruction failed. They keep their default
// action, which ends the process: a handler would return to that instruction, and fail for ever.

export const CRASH_SIGNALS = [
  'SIGILL',
  'SIGTRAP',
  'SIGABRT',
  'SIGBUS',
  'SIGFPE',
  'SIGSEGV',
] as const
