-- The application's own column of progress is written when the percentage moves, and by nobody else: whatever is written
-- there is put back to what the counters say, at any trigger depth, and `returning` shows it. What was not counted, or is
-- frozen, keeps the number that it has. Who moves a counter has locked the row of the workflow before, as who changes
-- that row: the other way round, two statements that complete a workflow and a task of it could wait for each other.

create or replace function public.publish_progress()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
begin
    if
        new.progress is null
        -- Those that are counted when they are adopted are published many at a time.
        or (tg_op = 'INSERT' and (new.progress = 0 or pg_trigger_depth() = 1))
        or (tg_op = 'UPDATE' and new.progress is not distinct from old.progress and old.progress_frozen_at is null)
    then
        return null;
    end if;

    -- A column that is gone, or of another type by now, is found out here, where nothing has been written: a write inside
    -- of this block would take a transaction id of its own each time.
    begin
        perform from their_workflow as u where false and u.their_key = new.id and coalesce(u.their_progress, 0) = 0;
    exception
        when syntax_error_or_access_rule_violation or invalid_schema_name or internal_error or data_exception then
            raise warning using
                message = format('agent-progress: progress is not published: %s', sqlerrm),
                hint = 'agent-progress check says what is missing.';
            return null;
    end;

    update their_workflow as u
    set their_progress = new.progress
    where u.their_key = new.id and u.their_progress is distinct from new.progress;
    return null;
end
$$;

comment on function public.publish_progress() is 'Writes the percentage to the application''s own column when it moves.';

revoke execute on function public.publish_progress() from public;

create or replace trigger workflow_counter_publish
    after insert or update on public.workflow_counter
    for each row
    execute function public.publish_progress();

comment on trigger workflow_counter_publish on public.workflow_counter is
    'Tells the application''s own table when the percentage moves.';

create or replace function public.guard_published_progress()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    old_meaning public.workflow_status;
    new_meaning public.workflow_status;
    old_plan integer;
    new_plan integer;
    counted integer;
begin
    if tg_op = 'INSERT' then
        select s.progress into counted from public.workflow_counter as s where s.id = new.their_key;
        new.their_progress := coalesce(counted, 0);
        return new;
    end if;

    begin
        old_meaning := old.their_meaning;
        new_meaning := new.their_meaning;
        old_plan := old.their_plan;
        new_plan := new.their_plan;
    exception
        -- A session that came here before a column was retyped cannot read it in its plan.
        when syntax_error_or_access_rule_violation or internal_error then
            old_meaning := old.their_meaning_by_name;
            new_meaning := new.their_meaning_by_name;
            old_plan := old.their_plan_by_name;
            new_plan := new.their_plan_by_name;
    end;
    if
        new.their_progress is distinct from old.their_progress
        or new_meaning <> old_meaning
        or new_plan is distinct from old_plan
    then
        -- As it will be once the counters have followed status and plan (04).
        select
            case
                when s.progress_frozen_at is not null or new.their_key is distinct from old.their_key then s.progress
                else public.progress_percentage(
                    s.agents_completed,
                    public.progress_total(
                        new_meaning,
                        s.agents_created,
                        case when new_plan is distinct from old_plan then new_plan else s.agents_planned end
                    )
                )
            end
        into counted
        from public.workflow_counter as s
        where s.id = old.their_key;
        new.their_progress := coalesce(counted, old.their_progress);
    end if;
    return new;
exception
    when syntax_error_or_access_rule_violation or invalid_schema_name or internal_error or data_exception then
        return new;
end
$$;

comment on function public.guard_published_progress() is
    'Puts the application''s column of progress back to what the counters say.';

revoke execute on function public.guard_published_progress() from public;

-- BEFORE triggers fire in the order of their names; this one has the last word.
create or replace trigger zz_workflow_progress_guard
    before insert or update on their_workflow
    for each row
    execute function public.guard_published_progress();

comment on trigger zz_workflow_progress_guard on their_workflow is
    'agent-progress: keeps progress from being written by anybody else; fires after all other BEFORE triggers.';
