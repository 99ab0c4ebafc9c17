-- Reading the application's rows. These functions are inlined, so the application's own indexes serve, and nothing
-- depends on its columns: they can be dropped and retyped. Where one is gone, reading says which.

create or replace function {schema}.read_workflows()
returns table (
    workflow_id {id_type},
    {workflow_list:key_# @type},
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
        {workflow_id},
        {workflow_keys},
        {name},
        {description},
        {type},
        {status},
        {current_stage},
        {priority},
        {planned},
        {trace_id},
        {created_at},
        {updated_at},
        {completed_at},
        {published},
        {parent_id}
    from {listed}
$agent_progress$;

comment on function {schema}.read_workflows() is 'The workflows of the application, with the columns of workflow; null where it has none.';
