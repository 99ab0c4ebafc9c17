-- Without a table of workflows, a workflow is what its tasks name: its counters are all there is of it, with what the
-- first task said.

create or replace function {schema}.read_workflows()
returns table (
    workflow_id {id_type},
    {workflow_key_columns},
    name text,
    description text,
    type text,
    status text,
    current_stage text,
    priority text,
    planned integer,
    trace_id text,
    created_at timestamptz,
    updated_at timestamptz,
    completed_at timestamptz,
    published numeric,
    parent_id {id_type}
)
language sql
stable
as $agent_progress$
    select
        {counter_id},
        {counter_keys},
        coalesce(c.described ->> 'name', {counter_id}::text),
        c.described ->> 'description',
        c.described ->> 'type',
        null::text,
        c.described ->> 'current_stage',
        c.described ->> 'priority',
        null::integer,
        c.described ->> 'trace_id',
        coalesce((c.described ->> 'created_at')::timestamptz, c.created_at),
        c.progress_updated_at,
        case
            when c.agents_created = c.agents_completed + c.agents_failed + c.agents_cancelled then c.progress_updated_at
        end,
        null::numeric,
        null::{id_type}
    from {schema}.workflow_counter as c
$agent_progress$;

comment on function {schema}.read_workflows() is 'The workflows that the tasks name, with the columns of ours.';
