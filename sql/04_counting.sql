-- Each statement on agent_task adds what it changed to the counters of its workflows, in its own transaction.
-- Differences are added, never a recount: that would miss the tasks that other transactions finish at the same time.
-- Once per statement, not per row: each update of a workflow has to pass all row versions that its transaction made
-- before, so that many tasks changed at once would cost quadratic time. Workflow rows are locked in the order of their
-- ids, so that two statements of the same kind never deadlock on them. Frozen rows are updated too, to take the lock
-- that a concurrent thaw waits for.
-- The guard (05) derives total and percentage from the counters, and recognizes this function by the 'epoch' that it
-- writes to progress_updated_at. pg_temp is named last in the search_path, here and in all files: left out, it would be
-- searched first, and a writer's temporary tables and types would be found before the real ones.
-- Here and in all files a variable goes before a column of the same name (#variable_conflict): users may add any.

create or replace function public.maintain_progress()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off -- as in 09
set row_security = off
as $$
#variable_conflict use_variable
declare
    task_workflow uuid;
    seen boolean; -- whether there is a row
    still_open boolean; -- of a single task: an open one was inserted, deleted or left open; false: it was completed
    sign integer;
    changes refcursor;
    change record;
begin
    -- A statement on a single task is by far the most frequent, and its plain cases need no aggregation.
    if tg_op = 'UPDATE' then
        for task_workflow, still_open in
            select
                n.workflow_id,
                case
                    when n.workflow_id = o.workflow_id and o.status < 'completed' and n.status <= 'completed'
                    then n.status < 'completed'
                end
            from old_task as o cross join new_task as n
        loop
            if seen then
                still_open := null; -- by a second row
                exit;
            end if;
            seen := true;
        end loop;
        if still_open then
            return null;
        elsif not still_open then
            update public.workflow
            set
                agents_completed = agents_completed + 1,
                progress_updated_at = 'epoch'
            where id = task_workflow;
            return null;
        end if;

        open changes for
            select
                t.workflow_id,
                sum(t.sign) as created,
                sum(t.sign * (t.status = 'completed')::integer) as completed,
                sum(t.sign * (t.status = 'failed')::integer) as failed,
                sum(t.sign * (t.status = 'cancelled')::integer) as cancelled
            from (
                select o.workflow_id, o.status, -1 as sign from old_task as o
                union all
                select n.workflow_id, n.status, 1 as sign from new_task as n
            ) as t
            group by t.workflow_id
            order by t.workflow_id;
    elsif tg_op = 'TRUNCATE' then
        -- It has no transition tables, and may have emptied one partition only: workflows that drifted are recounted.
        if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
            raise feature_not_supported using
                message = 'agent_task cannot be truncated with an old snapshot: tasks of others would stay counted',
                hint = 'Truncate in a transaction of isolation level READ COMMITTED.';
        end if;
        perform from public.repair_progress(null::uuid);
        return null;
    else
        sign := case tg_op when 'INSERT' then 1 else -1 end;
        for task_workflow, still_open in
            select c.workflow_id, c.status < 'completed' from changed_task as c
        loop
            if seen then
                still_open := null; -- by a second row
                exit;
            end if;
            seen := true;
        end loop;
        if still_open then
            update public.workflow
            set
                agents_created = agents_created + sign,
                progress_updated_at = 'epoch'
            where id = task_workflow;
            return null;
        end if;

        open changes for
            select
                c.workflow_id,
                count(*) * sign as created,
                count(*) filter (where c.status = 'completed') * sign as completed,
                count(*) filter (where c.status = 'failed') * sign as failed,
                count(*) filter (where c.status = 'cancelled') * sign as cancelled
            from changed_task as c
            group by c.workflow_id
            order by c.workflow_id;
    end if;

    loop
        fetch changes into change;
        exit when not found;
        continue when (change.created, change.completed, change.failed, change.cancelled) = (0, 0, 0, 0);
        update public.workflow
        set
            agents_created = agents_created + change.created,
            agents_completed = agents_completed + change.completed,
            agents_failed = agents_failed + change.failed,
            agents_cancelled = agents_cancelled + change.cancelled,
            progress_updated_at = 'epoch'
        where id = change.workflow_id;
    end loop;
    close changes;
    return null;
end
$$;

comment on function public.maintain_progress() is
    'Adds what a statement on agent_task changed to the counters of the workflows concerned.';

-- Whoever may execute a trigger function can put it on a table of their own, and so count tasks that do not exist.
revoke execute on function public.maintain_progress() from public;

create or replace trigger agent_task_progress_insert
    after insert on public.agent_task
    referencing new table as changed_task
    for each statement
    execute function public.maintain_progress();

comment on trigger agent_task_progress_insert on public.agent_task is 'Counts the tasks that a statement created.';

create or replace trigger agent_task_progress_update
    after update on public.agent_task
    referencing old table as old_task new table as new_task
    for each statement
    execute function public.maintain_progress();

comment on trigger agent_task_progress_update on public.agent_task is 'Counts the tasks that a statement settled, re-opened or moved.';

create or replace trigger agent_task_progress_delete
    after delete on public.agent_task
    referencing old table as changed_task
    for each statement
    execute function public.maintain_progress();

comment on trigger agent_task_progress_delete on public.agent_task is 'Takes the tasks that a statement deleted from the counts.';

create or replace trigger agent_task_progress_truncate
    after truncate on public.agent_task
    for each statement
    execute function public.maintain_progress();

comment on trigger agent_task_progress_truncate on public.agent_task is
    'Recounts the workflows whose tasks a TRUNCATE removed.';
