-- What agents report. The outcome is as if each report came alone. The last report of a task wins. A report of an open
-- status for a settled task is late, and passed over unless it says reopen. One without a result leaves the result that
-- the task has, except where it opens the task again. Triggers (11) keep times and the retry count, as they do for a
-- plain UPDATE.
-- SQLSTATE P0002: no such workflow, WP003: no such task, 22P02: unknown status or malformed id, 22023: malformed report.

create or replace function public.report_tasks(workflow_id uuid, reports jsonb)
returns setof public.agent_task
language plpgsql
security invoker
set search_path = pg_catalog, pg_temp
set enable_seqscan = off -- as in 09
as $$
#variable_conflict use_variable
declare
    unknown text;
    incomplete bigint;
    missing jsonb;
    tasks uuid[];
    statuses public.task_status[];
    results jsonb[];
    reopens boolean[];
    rounds integer[];
    last_round integer;
    locked bigint;
begin
    if
        jsonb_typeof(report_tasks.reports) is distinct from 'array'
        or jsonb_path_exists(report_tasks.reports, 'strict $[*] ? (@.type() != "object")')
    then
        raise invalid_parameter_value using
            message = 'reports are given as a JSON array of objects',
            hint = 'Each one is an object with task_id or external_id, status, and maybe result and reopen.';
    end if;
    select k.name
    into unknown
    from jsonb_array_elements(report_tasks.reports) as r (report)
    cross join lateral jsonb_object_keys(r.report) as k (name)
    where k.name not in ('task_id', 'external_id', 'status', 'result', 'reopen')
    limit 1;
    if found then
        raise invalid_parameter_value using
            message = format('a report has no %s', quote_ident(unknown)),
            hint = 'It has task_id or external_id, status, and maybe result and reopen.';
    end if;

    -- Read the reports into arrays of equal length, and look up external ids. Each round below updates a task at most
    -- once: the n-th report of a task belongs to round n.
    select
        array_agg(n.task_id order by n.place),
        array_agg(n.status order by n.place),
        array_agg(n.result order by n.place),
        array_agg(coalesce(n.reopen, false) order by n.place),
        array_agg(n.round order by n.place),
        max(n.round),
        jsonb_agg(n.external_id order by n.place) filter (where n.task_id is null and n.external_id is not null),
        min(n.place) filter (where n.status is null or (n.task_id is null and n.external_id is null))
    into tasks, statuses, results, reopens, rounds, last_round, missing, incomplete
    from (
        select
            coalesce(r.task_id, t.id) as task_id,
            r.external_id,
            r.status,
            r.result,
            r.reopen,
            r.place,
            row_number() over (partition by coalesce(r.task_id, t.id) order by r.place) as round
        from rows from (
            jsonb_to_recordset(report_tasks.reports) as (
                task_id uuid, external_id text, status public.task_status, result jsonb, reopen boolean
            )
        ) with ordinality as r (task_id, external_id, status, result, reopen, place)
        left join lateral (
            select a.id
            from public.agent_task as a
            where r.task_id is null and a.workflow_id = report_tasks.workflow_id and a.external_id = r.external_id
            limit 1 -- so that the index is used: a plain join might read all tasks of the workflow
        ) as t on true
    ) as n;
    if incomplete is not null then
        raise invalid_parameter_value using
            message = format('report %s lacks its status, or says of no task', incomplete),
            hint = 'A report has task_id or external_id, and a status.';
    end if;

    -- Locked in the order of their ids, so that two batches never deadlock on tasks. Here and below tasks have to be
    -- found by primary key, whatever the statistics say: no index serves IS NOT DISTINCT FROM, and `= any` leaves no
    -- join but a nested loop.
    perform
    from public.agent_task as a
    where a.workflow_id is not distinct from report_tasks.workflow_id and a.id = any (tasks)
    order by a.id
    for no key update;

    get diagnostics locked = row_count;

    -- Round 1 has each task once. Without reports the arrays are null.
    if tasks is null or locked < cardinality(array_positions(rounds, 1)) or missing is not null then
        if not exists (select from public.workflow as w where w.id = report_tasks.workflow_id) then
            raise no_data_found using message = format('workflow %s not found', report_tasks.workflow_id);
        elsif tasks is null then
            return;
        end if;
        select coalesce(missing, '[]') || coalesce(jsonb_agg(distinct g.id), '[]')
        into missing
        from unnest(tasks) as g (id)
        where
            g.id is not null
            and not exists (
                select from public.agent_task as a where a.workflow_id = report_tasks.workflow_id and a.id = g.id
            );
        raise exception using
            errcode = 'WP003',
            message = format('workflow %s has no task %s', report_tasks.workflow_id, missing ->> 0),
            detail = missing,
            hint = 'None of the reports was taken.';
    end if;

    for this_round in 1 .. coalesce(last_round, 0) loop
        update public.agent_task as a
        set
            status = r.status,
            result = case
                when a.status >= 'completed' and r.status < 'completed' then r.result
                else coalesce(r.result, a.result)
            end
        from unnest(tasks, statuses, results, reopens, rounds) as r (task_id, status, result, reopen, round)
        where
            r.round = this_round
            and a.workflow_id is not distinct from report_tasks.workflow_id
            and a.id = any (array[r.task_id])
            and (r.status >= 'completed' or a.status < 'completed' or r.reopen)
            and (r.status <> a.status or r.result is not null);
    end loop;

    return query
    select a.*
    from unnest(tasks, rounds) with ordinality as r (task_id, round, place)
    join public.agent_task as a
        on a.workflow_id is not distinct from report_tasks.workflow_id and a.id = any (array[r.task_id])
    where r.round = 1
    order by r.place;
end
$$;

comment on function public.report_tasks(uuid, jsonb) is
    'Takes reports on tasks of one workflow, an array of {task_id or external_id, status, result, reopen}; returns each task as it stands then, in the order of its first report. All or none is taken.';

create or replace function public.report_task(
    workflow_id uuid,
    task_id uuid,
    status public.task_status,
    result jsonb default null,
    reopen boolean default false
)
returns public.agent_task
language plpgsql
security invoker
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
#variable_conflict use_variable
declare
    given constant jsonb := nullif(report_task.result, 'null'); -- in a report, null is no result
    reported public.agent_task;
begin
    -- The same update as in report_tasks, without JSON: a tenth of the cost.
    update public.agent_task as a
    set
        status = report_task.status,
        result = case
            when a.status >= 'completed' and report_task.status < 'completed' then given
            else coalesce(given, a.result)
        end
    where
        a.workflow_id = report_task.workflow_id
        and a.id = report_task.task_id
        and (report_task.status >= 'completed' or a.status < 'completed' or report_task.reopen)
        and (report_task.status <> a.status or given is not null)
    returning a.* into reported;
    if not found then
        -- A late report, or nothing new, or no such task: report_tasks returns the task, or raises the error.
        select t.*
        into reported
        from public.report_tasks(
            report_task.workflow_id,
            jsonb_build_array(jsonb_build_object(
                'task_id', report_task.task_id,
                'status', report_task.status,
                'result', given,
                'reopen', report_task.reopen
            ))
        ) as t;
    end if;
    return reported;
end
$$;

comment on function public.report_task(uuid, uuid, public.task_status, jsonb, boolean) is
    'Takes one report as report_tasks does; returns the task as it stands then.';
