-- Nobody but the task trigger (04) moves a counter, and total and percentage always follow from the counters.
-- What others write to these columns is silently put back, not refused: ORMs that save a row write every column, with
-- values as old as their read, and orchestrators write percentages of their own making.
-- The task trigger is told by the trigger depth and by 'epoch', its mark. In the body, since a WHEN clause is compiled
-- anew by each statement, which costs more than the call that it saves; and first, with few expressions: plpgsql prepares
-- each one anew in every transaction.

create or replace function public.guard_progress()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
begin
    if
        new.progress_updated_at = 'epoch'
        and pg_trigger_depth() > 1
        and new.id = old.id
        and old.progress_frozen_at is null
    then
        new.progress_updated_at := clock_timestamp(); -- the task trigger: the counters are as they should be
    elsif new.agents_planned < 0 then
        -- Not a check constraint: each update of a counter would have to pass it.
        raise check_violation using
            message = format('agents_planned is %s: a number of agents cannot be negative', new.agents_planned),
            hint = 'Leave it null as long as the number is unknown.';
    elsif tg_op = 'INSERT' and new.progress_frozen_at is not null then
        return new;
    elsif
        tg_op = 'INSERT'
        or (old.progress_frozen_at is not null and new.progress_frozen_at is null and new.id = old.id)
    then
        -- Thawing recounts: this row is locked by now, and the query sees all that was committed until then. A new
        -- workflow has no tasks, except where the foreign key is deferred, or where the same statement deleted it. In an
        -- upsert its row may be there already: then nothing of this is used, and nothing is counted.
        select
            count(*),
            count(*) filter (where a.status = 'completed'),
            count(*) filter (where a.status = 'failed'),
            count(*) filter (where a.status = 'cancelled')
        into new.agents_created, new.agents_completed, new.agents_failed, new.agents_cancelled
        from public.agent_task as a
        where
            a.workflow_id = new.id
            and (tg_op = 'UPDATE' or not exists (select from public.workflow where id = new.id));
        if tg_op = 'UPDATE' then
            new.progress_updated_at := old.progress_updated_at;
        else
            new.progress_updated_at := clock_timestamp();
        end if;
    elsif new.id <> old.id and new.progress_frozen_at is null then
        -- Where keys cascade on update, the tasks follow and count themselves again.
        new.agents_created := 0;
        new.agents_completed := 0;
        new.agents_failed := 0;
        new.agents_cancelled := 0;
        new.progress_updated_at := old.progress_updated_at;
    else
        new.agents_created := old.agents_created;
        new.agents_completed := old.agents_completed;
        new.agents_failed := old.agents_failed;
        new.agents_cancelled := old.agents_cancelled;
        new.progress_updated_at := old.progress_updated_at;
        if new.progress_frozen_at is not null then
            new.agents_total := old.agents_total;
            new.progress := old.progress;
            return new;
        end if;
    end if;

    new.agents_total := public.progress_total(new.status, new.agents_created::bigint, new.agents_planned::bigint);
    new.progress := public.progress_percentage(new.agents_completed::bigint, new.agents_total::bigint);
    if new.progress_updated_at is not distinct from old.progress_updated_at then
        if
            new.progress <> old.progress
            or new.agents_total <> old.agents_total
            or new.agents_created is distinct from old.agents_created -- null: not counted yet
            or new.agents_completed <> old.agents_completed
            or new.agents_failed <> old.agents_failed
            or new.agents_cancelled <> old.agents_cancelled
        then
            new.progress_updated_at := clock_timestamp();
        end if;
    end if;
    return new;
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
