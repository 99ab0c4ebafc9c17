-- Creating workflows and their tasks. Each call is one statement for the caller: if it fails, nothing is left of it,
-- and it can be repeated. These functions, and those in 13, 14 and 17, run with the rights of the caller.

create or replace function public.create_workflow(
    name text,
    type text,
    description text default null,
    status public.workflow_status default 'initiated',
    current_stage text default null,
    priority public.priority_level default 'medium',
    agents_planned integer default null,
    trace_id text default null,
    input_data jsonb default null,
    created_by text default 'system',
    parent_id uuid default null
)
returns public.workflow
language plpgsql
security invoker
set search_path = pg_catalog, pg_temp
set enable_seqscan = off -- for the foreign key, as in 09
as $$
#variable_conflict use_variable
declare
    created public.workflow;
begin
    insert into public.workflow as w (
        name,
        type,
        description,
        status,
        current_stage,
        priority,
        agents_planned,
        trace_id,
        input_data,
        created_by,
        parent_id
    )
    values (
        create_workflow.name,
        create_workflow.type,
        create_workflow.description,
        create_workflow.status,
        create_workflow.current_stage, -- null: the first stage of its type (08)
        create_workflow.priority,
        create_workflow.agents_planned,
        create_workflow.trace_id,
        create_workflow.input_data,
        create_workflow.created_by,
        create_workflow.parent_id
    )
    returning w.* into created;
    perform public.plan_stages(created);
    -- Read again: the plan may have said how many agents will come.
    select w.* into created from public.workflow as w where w.id = created.id;
    return created;
end
$$;

comment on function public.create_workflow(
    text, text, text, public.workflow_status, text, public.priority_level, integer, text, jsonb, text, uuid
) is 'Creates a workflow with the stages of its type, in the first of them unless told otherwise; returns its row.';

create or replace function public.add_tasks(workflow_id uuid, tasks jsonb)
returns setof public.agent_task
language plpgsql
security invoker
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_variable
declare
    unknown text;
begin
    if
        jsonb_typeof(add_tasks.tasks) is distinct from 'array'
        or jsonb_path_exists(add_tasks.tasks, 'strict $[*] ? (@.type() != "object" && @.type() != "string")')
    then
        raise invalid_parameter_value using
            message = 'tasks are given as a JSON array of strings and objects',
            hint = 'Each one is an agent type, or an object with the names of the columns of agent_task.';
    end if;
    if not exists (select from public.workflow as w where w.id = add_tasks.workflow_id) then
        raise no_data_found using message = format('workflow %s not found', add_tasks.workflow_id);
    end if;
    select k.name
    into unknown
    from jsonb_array_elements(add_tasks.tasks) as t (task)
    cross join lateral jsonb_object_keys(
        case jsonb_typeof(t.task) when 'string' then '{}' else t.task end
    ) as k (name)
    where k.name not in (
        'agent_type', 'external_id', 'stage', 'status', 'priority', 'payload', 'result', 'trace_id', 'span_id',
        'parent_span_id', 'created_at', 'assigned_at', 'started_at', 'completed_at', 'retry_count', 'max_retries',
        'timeout_ms'
    )
    limit 1;
    if found then
        raise invalid_parameter_value using
            message = format('a new task has no %s', quote_ident(unknown)),
            hint = 'The names are those of the columns of agent_task, without id, workflow_id and ordinal.';
    end if;

    return query
    with added as (
        insert into public.agent_task as a (
            workflow_id, external_id, agent_type, stage, status, priority, payload, result, trace_id, span_id,
            parent_span_id, created_at, assigned_at, started_at, completed_at, retry_count, max_retries, timeout_ms
        )
        select
            add_tasks.workflow_id,
            r.external_id,
            r.agent_type,
            r.stage,
            coalesce(r.status, 'pending'),
            coalesce(r.priority, 'medium'),
            coalesce(r.payload, '{}'),
            r.result,
            r.trace_id,
            r.span_id,
            r.parent_span_id,
            coalesce(r.created_at, clock_timestamp()),
            r.assigned_at,
            r.started_at,
            r.completed_at,
            coalesce(r.retry_count, 0),
            coalesce(r.max_retries, 3),
            coalesce(r.timeout_ms, 300000)
        from jsonb_array_elements(add_tasks.tasks) with ordinality as t (task, place)
        cross join lateral jsonb_to_record(
            case jsonb_typeof(t.task) when 'string' then jsonb_build_object('agent_type', t.task) else t.task end
        ) as r (
            external_id text, agent_type text, stage text, status public.task_status, priority public.priority_level,
            payload jsonb, result jsonb, trace_id text, span_id text, parent_span_id text, created_at timestamptz,
            assigned_at timestamptz, started_at timestamptz, completed_at timestamptz, retry_count integer,
            max_retries integer, timeout_ms integer
        )
        order by t.place
        returning a.*
    )
    select a.* from added as a order by a.ordinal;
end
$$;

comment on function public.add_tasks(uuid, jsonb) is
    'Adds tasks to a workflow: an array of agent types, or of objects with the names of the columns; returns them in that order. SQLSTATE P0002: no such workflow, 22023: malformed.';
