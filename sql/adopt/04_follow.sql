-- The counters follow the application's workflows: a new one starts at zero, a deleted one takes its counters along. Where
-- keys cascade on update, the tasks follow theirs. What cannot be followed since a column is gone stops no write of the
-- application's; it is found out in a block of its own, before anything is written: a write inside of the block would take
-- a transaction id of its own each time.

create or replace function public.follow_workflow()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    old_workflow_id uuid;
    new_workflow_id uuid;
    old_meaning public.workflow_status;
    new_meaning public.workflow_status;
    old_plan integer;
    new_plan integer;
    moved boolean := false;
begin
    begin
        if tg_level = 'ROW' then
            new_workflow_id := new.their_key;
            if tg_op = 'UPDATE' then
                old_workflow_id := old.their_key;
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
                moved := new_workflow_id is distinct from old_workflow_id;
                if not moved and new_meaning = old_meaning and new_plan is not distinct from old_plan then
                    return null;
                end if;
            end if;
        elsif tg_op = 'INSERT' then
            perform w.id, w.status, w.agents_planned from new_workflow as w where false;
        end if;
        perform s.status, s.agents_planned, s.progress_frozen_at
        from public.workflow_counter as s
        join their_workflow as u on u.their_key = s.id
        where false;
    exception
        when syntax_error_or_access_rule_violation or invalid_schema_name or internal_error or data_exception then
            raise warning using
                message = format('agent-progress: %s: %s', tg_name, sqlerrm),
                hint = 'agent-progress check says what is missing.';
            if tg_when = 'BEFORE' then
                return new;
            end if;
            return null;
    end;

    if tg_when = 'BEFORE' then
        -- Counters begin before the row does: what a statement does to its tasks as well is counted after it. An upsert
        -- that finds the row there changes nothing.
        if not exists (select from their_workflow as u where u.their_key = new_workflow_id) then
            -- Counters that wait for it are those of its tasks, which came first: without a foreign key, or with a
            -- deferred one.
            insert into public.workflow_counter as s (id)
            values (new_workflow_id)
            on conflict (id) do update
            set progress_frozen_at = null
            where s.progress_frozen_at is not null;
        end if;
        return new;
    elsif tg_op = 'INSERT' then
        insert into public.workflow_counter as s (id, status, agents_planned)
        select w.id, w.status, w.agents_planned
        from new_workflow as w
        order by w.id
        on conflict (id) do update
        set
            status = excluded.status,
            agents_planned = excluded.agents_planned
        where (s.status, s.agents_planned) is distinct from (excluded.status, excluded.agents_planned);
    elsif moved then
        delete from public.workflow_counter where id = new_workflow_id;
        -- Its guard sets the counters to zero: where keys cascade, the tasks follow and count themselves again.
        update public.workflow_counter
        set
            id = new_workflow_id,
            status = new_meaning,
            agents_planned = coalesce(new_plan, agents_planned)
        where id = old_workflow_id;

        if not their_keys_cascade then
            update public.workflow_counter
            set progress_frozen_at = 'epoch'
            where id = new_workflow_id and progress_frozen_at is null;

            update public.workflow_counter
            set progress_frozen_at = null
            where id = new_workflow_id and progress_frozen_at = 'epoch';
        end if;
    elsif tg_op = 'UPDATE' then
        update public.workflow_counter
        set
            status = new_meaning,
            agents_planned = case when new_plan is distinct from old_plan then new_plan else agents_planned end
        where id = new_workflow_id;
    elsif tg_op = 'DELETE' then
        -- One that was inserted again in the same statement, or lies in another partition, is still there.
        delete from public.workflow_counter as s
        where
            s.id in (select w.id from old_workflow as w)
            and not exists (select from their_workflow as u where u.their_key = s.id);
    else
        delete from public.workflow_counter as s
        where not exists (select from their_workflow as u where u.their_key = s.id);
    end if;
    return null;
end
$$;

comment on function public.follow_workflow() is 'Keeps a row of counters for each workflow of the application.';

revoke execute on function public.follow_workflow() from public;

-- After all other BEFORE triggers, which may choose the key.
create or replace trigger zz_workflow_progress_follow
    before insert on their_workflow
    for each row
    execute function public.follow_workflow();

create or replace trigger workflow_progress_follow_insert
    after insert on their_workflow
    referencing new table as new_workflow
    for each statement
    execute function public.follow_workflow();

create or replace trigger workflow_progress_follow_update
    after update on their_workflow
    for each row
    execute function public.follow_workflow();

create or replace trigger workflow_progress_follow_delete
    after delete on their_workflow
    referencing old table as old_workflow
    for each statement
    execute function public.follow_workflow();

create or replace trigger workflow_progress_follow_truncate
    after truncate on their_workflow
    for each statement
    execute function public.follow_workflow();

comment on trigger zz_workflow_progress_follow on their_workflow is 'agent-progress: begins to count for new workflows.';
comment on trigger workflow_progress_follow_insert on their_workflow is 'agent-progress: heeds status and plan of new workflows.';
comment on trigger workflow_progress_follow_update on their_workflow is 'agent-progress: heeds changes of key, status and plan.';
comment on trigger workflow_progress_follow_delete on their_workflow is 'agent-progress: ends counting for deleted workflows.';
comment on trigger workflow_progress_follow_truncate on their_workflow is 'agent-progress: ends counting for workflows that are gone.';
