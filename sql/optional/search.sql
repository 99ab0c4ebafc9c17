-- Optional: indexes for the search of the dashboard and the API, worth it above 200,000 workflows or for external ids
-- of old tasks. Each insert of a task pays for one of them, each new workflow for the other: measured without them,
-- the names of 100,000 workflows are read in 0.03 s. Restart `agent-progress serve` afterwards.
-- By hand: psql -f sql/optional/search.sql; in another schema, write its name instead of public.
-- To drop them: drop index public.workflow_name_trgm_idx, public.agent_task_external_id_idx;

create extension if not exists pg_trgm;

-- Without locking out writers; partitioned tasks take `create index` without concurrently instead.
create index concurrently if not exists workflow_name_trgm_idx on public.workflow using gin (name gin_trgm_ops);

create index concurrently if not exists agent_task_external_id_idx on public.agent_task (external_id)
    where external_id is not null;
