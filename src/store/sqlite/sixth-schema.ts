// The sixth migration: by which keys a worker opens secrets.

// JSON: a list of ids.
export const SIXTH_SCHEMA = `
alter table workers add column key_ids text not null default '[]';
`
