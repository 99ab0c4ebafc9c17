-- Workflows that ended long ago keep their numbers and lose the rows of their tasks: first the workflow is frozen, then
-- its tasks are deleted. To be called again, each time in a transaction of its own, until it returns no row.

create or replace function public.archive_workflows(
    older_than interval,
    statuses public.workflow_status[] default '{completed,failed,cancelled}',
    batch integer default 100
)
returns table (workflow_id uuid, tasks bigint)
language plpgsql
security invoker
set search_path = pg_catalog, pg_temp
set enable_seqscan = off -- as in 09
set lock_timeout = '100ms' -- for the few locks that NOWAIT does not reach
as $$
#variable_conflict use_variable
declare
    ended_before timestamptz;
    archived integer := 0;
    candidate uuid;
begin
    if archive_workflows.older_than between interval '0' and interval '1000 years' then
        ended_before := now() - archive_workflows.older_than;
    else
        raise invalid_parameter_value using
            message = format('older_than is no length of time: %s', archive_workflows.older_than);
    end if;
    if archive_workflows.statuses <@ '{completed,failed,cancelled}'::public.workflow_status[] is not true then
        raise invalid_parameter_value using
            message = 'only workflows that ended can be archived',
            hint = 'Their statuses are completed, failed and cancelled.';
    end if;
    if archive_workflows.batch < 1 or archive_workflows.batch is null then
        raise invalid_parameter_value using message = 'a batch is of one workflow at least';
    end if;

    for candidate in
        select w.id
        from public.workflow as w
        -- Only those that have tasks. With `exists` instead, all tasks might be read.
        cross join lateral (select from public.agent_task as a where a.workflow_id = w.id limit 1) as t
        where w.status = any (archive_workflows.statuses) and coalesce(w.completed_at, w.updated_at) < ended_before
        order by w.id
    loop
        exit when archived >= archive_workflows.batch;
        begin
            -- Tasks first, then the workflow: the order in which agents lock. What others have locked is passed over.
            perform from public.agent_task as a where a.workflow_id = candidate order by a.id for update nowait;
            continue when not found; -- another call archived it meanwhile
            perform
            from public.workflow as w
            where
                w.id = candidate
                and w.status = any (archive_workflows.statuses)
                and coalesce(w.completed_at, w.updated_at) < ended_before
            for no key update nowait;
            continue when not found; -- it was opened again, or deleted
            update public.workflow as w
            set progress_frozen_at = now()
            where w.id = candidate and w.progress_frozen_at is null;
            if found then
                insert into public.workflow_event (workflow_id, event_type, payload, trace_id)
                select
                    w.id,
                    'archived',
                    jsonb_build_object(
                        'tasks', w.agents_created,
                        'by', coalesce(nullif(current_setting('role'), 'none'), session_user)
                    ),
                    w.trace_id
                from public.workflow as w
                where w.id = candidate;
            end if;
            delete from public.agent_task as a where a.workflow_id = candidate;
            get diagnostics tasks = row_count;
        exception
            when lock_not_available then
                continue;
        end;
        archived := archived + 1;
        workflow_id := candidate;
        return next;
    end loop;
end
$$;

comment on function public.archive_workflows(interval, public.workflow_status[], integer) is
    'Freezes a batch of workflows that ended longer ago than that, deletes their tasks and returns how many each had.';
