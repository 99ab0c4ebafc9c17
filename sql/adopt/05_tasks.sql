-- The tasks as ours, and each workflow as stored beside the same counted afresh: the definition of what is stored.

create or replace function {schema}.read_tasks()
returns table (
    id {task_id_type},
    {list:key_# @type},
    external_id text,
    agent_type text,
    stage text,
    status text,
    priority text,
    payload jsonb,
    result jsonb,
    trace_id text,
    span_id text,
    parent_span_id text,
    created_at timestamptz,
    assigned_at timestamptz,
    started_at timestamptz,
    completed_at timestamptz,
    retry_count integer,
    max_retries integer,
    timeout_ms integer,
    ordinal bigint
)
language sql
stable
as $agent_progress$
    select
        {task_id},
        {list:(@sql)::@type},
        {task_external_id},
        {task_agent_type},
        {task_stage},
        case {outcome} when 1 then 'completed' when 2 then 'failed' when 3 then 'cancelled' else {open_status} end,
        {task_priority},
        {task_payload},
        {task_result},
        {task_trace_id},
        {task_span_id},
        {task_parent_span_id},
        {task_created_at},
        {task_assigned_at},
        {task_started_at},
        {task_completed_at},
        {task_retry_count},
        {task_max_retries},
        {task_timeout_ms},
        {task_ordinal}
    from {tasks} as task
    where {outcome} is not null
$agent_progress$;

comment on function {schema}.read_tasks() is 'The tasks that count, with the columns of agent_task; null where the application has none.';

create or replace function {schema}.compare_progress()
returns table (
    workflow_id {id_type},
    {list:key_# @type},
    counter boolean,
    stored_created integer,
    stored_completed integer,
    stored_failed integer,
    stored_cancelled integer,
    frozen_progress integer,
    calculated_created bigint,
    calculated_completed bigint,
    calculated_failed bigint,
    calculated_cancelled bigint
)
language sql
stable
as $agent_progress$
    select
        {b_id},
        {b_keys},
        bool_or(b.counter),
        max(b.created),
        max(b.completed),
        max(b.failed),
        max(b.cancelled),
        max(b.frozen_progress),
        (sum(b.tasks) + max(b.removed_completed) + max(b.removed_failed) + max(b.removed_cancelled))::bigint,
        (sum(b.tasks * (b.outcome = 1)::integer) + max(b.removed_completed))::bigint,
        (sum(b.tasks * (b.outcome = 2)::integer) + max(b.removed_failed))::bigint,
        (sum(b.tasks * (b.outcome = 3)::integer) + max(b.removed_cancelled))::bigint
    from (
        select
            {c_keys},
            true as counter,
            c.agents_created as created,
            c.agents_completed as completed,
            c.agents_failed as failed,
            c.agents_cancelled as cancelled,
            c.frozen_progress,
            c.removed_completed,
            c.removed_failed,
            c.removed_cancelled,
            0 as outcome,
            0 as tasks
        from {schema}.workflow_counter as c
        union all
        select {t_keys}, false, null, null, null, null, null, 0, 0, 0, t.outcome, t.tasks
        from (
            -- By what became of them first: that is worked out once for each task.
            select {t_keys}, t.outcome, count(*) as tasks
            from {counted_tasks} as t
            group by {t_keys}, t.outcome
        ) as t
        where t.outcome is not null and ({keys}) is not null
    ) as b
    group by {b_keys}
$agent_progress$;

comment on function {schema}.compare_progress() is
    'Each workflow with its counters as stored, and counted afresh; what was removed after the end is part of both.';
