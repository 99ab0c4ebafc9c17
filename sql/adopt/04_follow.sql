-- The counters follow the application's workflows: a new one starts at zero, a deleted one takes its counters along. Where
-- keys cascade on update, the tasks follow theirs, whichever trigger comes first. What cannot be followed since a column is
-- gone stops no write of the application's.

create or replace function public.follow_workflow()
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
begin
    if tg_op = 'UPDATE' then
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
    end if;

    if tg_op = 'INSERT' then
        insert into public.workflow_counter (id, status, agents_planned)
        select w.id, w.status, w.agents_planned
        from new_workflow as w
        order by w.id
        -- Its tasks came first: where there is no foreign key, or a deferred one.
        on conflict (id) do update
        set
            status = excluded.status,
            agents_planned = excluded.agents_planned,
            progress_frozen_at = 'epoch';

        update public.workflow_counter as s
        set progress_frozen_at = null
        from new_workflow as w
        where s.id = w.id and s.progress_frozen_at = 'epoch';
    elsif tg_op = 'UPDATE' then
        if new.their_key is distinct from old.their_key then
            delete from public.workflow_counter where id = new.their_key;
            -- Its guard sets the counters to zero: where keys cascade, the tasks follow and count themselves again.
            update public.workflow_counter
            set
                id = new.their_key,
                status = new_meaning,
                agents_planned = coalesce(new_plan, agents_planned)
            where id = old.their_key;

            if not their_keys_cascade then
                update public.workflow_counter
                set progress_frozen_at = 'epoch'
                where id = new.their_key and progress_frozen_at is null;

                update public.workflow_counter
                set progress_frozen_at = null
                where id = new.their_key and progress_frozen_at = 'epoch';
            end if;
        elsif new_meaning <> old_meaning or new_plan is distinct from old_plan then
            update public.workflow_counter
            set
                status = new_meaning,
                agents_planned = case when new_plan is distinct from old_plan then new_plan else agents_planned end
            where id = new.their_key;
        end if;
    else
        -- One that was inserted again in the same statement, or lies in another partition, is still there.
        delete from public.workflow_counter as s
        where not exists (select from their_workflow as u where u.their_key = s.id)
            and (tg_op = 'TRUNCATE' or s.id in (select w.id from old_workflow as w));
    end if;
    return null;
exception
    when syntax_error_or_access_rule_violation or invalid_schema_name or internal_error or data_exception then
        raise warning using
            message = format('agent-progress: %s: %s', tg_name, sqlerrm),
            hint = 'agent-progress check says what is missing.';
        return null;
end
$$;

comment on function public.follow_workflow() is 'Keeps a row of counters for each workflow of the application.';

revoke execute on function public.follow_workflow() from public;

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

comment on trigger workflow_progress_follow_insert on their_workflow is 'agent-progress: begins to count for new workflows.';
comment on trigger workflow_progress_follow_update on their_workflow is 'agent-progress: heeds changes of key, status and plan.';
comment on trigger workflow_progress_follow_delete on their_workflow is 'agent-progress: ends counting for deleted workflows.';
comment on trigger workflow_progress_follow_truncate on their_workflow is 'agent-progress: ends counting for workflows that are gone.';
