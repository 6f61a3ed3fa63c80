// The third migration: how endpoints come back from a rest, and what statuses mean to them.

export const THIRD_SCHEMA = `
alter table endpoints drop column probe_id;
alter table endpoints drop column probe_fence;
alter table endpoints add column ramp_places integer;
alter table endpoints add column ramp_ends_at integer;
alter table endpoints add column statuses text;
`
