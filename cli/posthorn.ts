#!/usr/bin/env node
// The posthorn command: adjusts the environment, then loads main.ts. It must import nothing before.

// In Node FORCE_COLOR overrides NO_COLOR, with a warning as soon as node:util is loaded.
if (process.env.NO_COLOR) delete process.env.FORCE_COLOR

// The import is not awaited: bin/ loads this file with require(), which cannot wait.
void import('./main.ts')

export {}
