#!/usr/bin/env node
// The posthorn command: its environment first, then main.ts. Nothing is imported before that.

// Node lets FORCE_COLOR beat it, and prints a warning as soon as node:util is loaded.
if (process.env.NO_COLOR) delete process.env.FORCE_COLOR

// Not awaited: what bin/ requires may not wait.
void import('./main.ts')

export {}
