-- Nobody but the task trigger (04) moves a counter, and total and percentage follow from the counters, except in frozen
-- rows, which keep all their numbers.
-- What others write to these columns is silently put back, not refused: ORMs that save a row write every column, with
-- values as old as their read, and orchestrators write percentages of their own making.

create or replace function public.settle_workflow(operation text, before public.workflow, after public.workflow)
returns public.workflow
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off -- as in 09
set row_security = off
as $$
#variable_conflict use_variable
begin
    if after.agents_planned < 0 then
        -- Not a check constraint: each update of a counter would have to pass it.
        raise check_violation using
            message = format('agents_planned is %s: a number of agents cannot be negative', after.agents_planned),
            hint = 'Leave it null as long as the number is unknown.';
    elsif operation = 'INSERT' and after.progress_frozen_at is not null then
        return after;
    elsif
        operation = 'INSERT'
        or (before.progress_frozen_at is not null and after.progress_frozen_at is null and after.id = before.id)
    then
        -- A thawed workflow is recounted: its row is locked by now, and the query sees all that was committed before.
        -- A new one has no tasks yet, except where the foreign key is deferred, or where the same statement deleted it.
        -- An upsert may find the row there already, and then uses nothing of this: the tasks are not read for it.
        select
            count(*),
            count(*) filter (where a.status = 'completed'),
            count(*) filter (where a.status = 'failed'),
            count(*) filter (where a.status = 'cancelled')
        into after.agents_created, after.agents_completed, after.agents_failed, after.agents_cancelled
        from public.agent_task as a
        where
            a.workflow_id = after.id
            and (operation = 'UPDATE' or not exists (select from public.workflow where id = after.id));
        if operation = 'UPDATE' then
            after.progress_updated_at := before.progress_updated_at;
        else
            after.progress_updated_at := clock_timestamp();
        end if;
    elsif after.id <> before.id and after.progress_frozen_at is null then
        -- A new key: where the foreign key cascades updates, the tasks get it next, and are counted by that update.
        after.agents_created := 0;
        after.agents_completed := 0;
        after.agents_failed := 0;
        after.agents_cancelled := 0;
        after.progress_updated_at := before.progress_updated_at;
    else
        after.agents_created := before.agents_created;
        after.agents_completed := before.agents_completed;
        after.agents_failed := before.agents_failed;
        after.agents_cancelled := before.agents_cancelled;
        after.progress_updated_at := before.progress_updated_at;
        if after.progress_frozen_at is not null then
            after.agents_total := before.agents_total;
            after.progress := before.progress;
            return after;
        end if;
    end if;

    after.agents_total := public.progress_total(after.status, after.agents_created::bigint, after.agents_planned::bigint);
    after.progress := public.progress_percentage(after.agents_completed::bigint, after.agents_total::bigint);
    if
        after.progress_updated_at = before.progress_updated_at
        and (
            after.progress <> before.progress
            or after.agents_total <> before.agents_total
            or after.agents_created <> before.agents_created
            or after.agents_completed <> before.agents_completed
            or after.agents_failed <> before.agents_failed
            or after.agents_cancelled <> before.agents_cancelled
        )
    then
        after.progress_updated_at := clock_timestamp();
    end if;
    return after;
end
$$;

comment on function public.settle_workflow(text, public.workflow, public.workflow) is
    'Returns the row to store where anybody but the task trigger writes a workflow; before is null in an insert.';

revoke execute on function public.settle_workflow(text, public.workflow, public.workflow) from public;

-- The task trigger is recognized by the trigger depth and by the 'epoch' that it writes; a WHEN clause would be
-- compiled again by each statement. Each completion pays for this function. So it sets no search_path, and names
-- operators and functions with their schema instead, with arguments of their exact types. It reads no table itself and
-- is declared stable, so that plpgsql takes no snapshot for its expressions.
create or replace function public.guard_progress()
returns trigger
language plpgsql
stable
security definer
as $$
declare
    completed bigint;
    total bigint;
begin
    if
        new.progress_updated_at operator(pg_catalog.=) 'epoch'
        and pg_catalog.pg_trigger_depth() operator(pg_catalog.>) 1
        and old.id is not null
        and old.progress_frozen_at is null
    then
        total := public.progress_total(new.status, new.agents_created::bigint, new.agents_planned::bigint);
        completed := new.agents_completed;
        new.agents_total := total;
        new.progress := public.progress_percentage(completed, total);
        new.progress_updated_at := pg_catalog.clock_timestamp();
        return new;
    end if;
    declare
        -- On a node of Citus, old and new are rows of a shard, which is a type of its own.
        before constant public.workflow := old;
        after constant public.workflow := new;
    begin
        return public.settle_workflow(tg_op, before, after);
    end;
end
$$;

comment on function public.guard_progress() is
    'Puts back what is written to the maintained columns of a workflow and derives total and percentage from its counters.';

revoke execute on function public.guard_progress() from public;

-- BEFORE triggers fire in the order of their names; this one has the last word.
create or replace trigger zz_workflow_progress_guard
    before insert or update on public.workflow
    for each row
    execute function public.guard_progress();

comment on trigger zz_workflow_progress_guard on public.workflow is
    'Keeps the maintained columns from being written from outside; fires after all other BEFORE triggers.';
