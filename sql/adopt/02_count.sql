-- Each statement on the tasks adds what it changed to the counters of its workflows, in its own transaction: once per
-- statement, one row after the other in the order of keys. What the statement changed is read in a block of its own,
-- before anything is written: where a column or an object is missing, the application's write goes on. (A write inside
-- of the block would take a transaction id of its own.) It names what is needed later, and does not evaluate it.

create or replace function {schema}.maintain_progress()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $agent_progress$
#variable_conflict use_column
<<this>>
declare
    {each:key_# @type;}
    the_created integer;
    the_completed integer;
    the_failed integer;
    the_cancelled integer;
    now_created integer;
    now_completed integer;
    now_frozen integer;
    sign integer := case tg_op when 'DELETE' then -1 else 1 end;
    single boolean;
    moved boolean;
    ended boolean;
    closed boolean;
    left_failed integer;
    the_description jsonb;
    pair record;
    is_live boolean;
    changes refcursor;
begin
    begin
        if tg_op = 'TRUNCATE' then
            perform from {schema}.workflow_progress_drift where false;
        elsif tg_op = 'UPDATE' then
            -- A single task is by far the most frequent, and needs no aggregation.
            select
                {n_keys},
                0,
                (n.outcome = 1)::integer - (o.outcome = 1)::integer,
                (n.outcome = 2)::integer - (o.outcome = 2)::integer,
                (n.outcome = 3)::integer - (o.outcome = 3)::integer,
                n.outcome <> o.outcome,
                {n_is_o} and o.outcome is not null and n.outcome is not null
                    and not exists (select from new_task offset 1)
            into {this_keys}, the_created, the_completed, the_failed, the_cancelled, moved, single
            from {old_tasks} as o
            cross join {new_tasks} as n
            where true or {needed};
            if not found or (single and not moved) then
                return null;
            end if;
            if single is not true then
                open changes for
                    select
                        {keys},
                        sum(t.task),
                        sum(t.task * (t.outcome = 1)::integer),
                        sum(t.task * (t.outcome = 2)::integer),
                        sum(t.task * (t.outcome = 3)::integer)
                    from (
                        select -1 as task, o.* from {old_tasks} as o
                        union all
                        select 1 as task, n.* from {new_tasks} as n
                    ) as t
                    where t.outcome is not null and ({keys}) is not null
                    group by {keys}
                    order by {keys};
            end if;
        else
            select
                {keys},
                sign,
                sign * (t.outcome = 1)::integer,
                sign * (t.outcome = 2)::integer,
                sign * (t.outcome = 3)::integer,
                t.outcome is not null and ({keys}) is not null and not exists (select from changed_task offset 1)
            into {this_keys}, the_created, the_completed, the_failed, the_cancelled, single
            from {changed_tasks} as t
            where true or {needed};
            if not found then
                return null;
            end if;
            if not single then
                open changes for
                    select
                        {keys},
                        sign * count(*),
                        sign * count(*) filter (where t.outcome = 1),
                        sign * count(*) filter (where t.outcome = 2),
                        sign * count(*) filter (where t.outcome = 3)
                    from {changed_tasks} as t
                    where t.outcome is not null and ({keys}) is not null
                    group by {keys}
                    order by {keys};
            end if;
        end if;
        if changes is not null then
            fetch changes into {this_keys}, the_created, the_completed, the_failed, the_cancelled;
            if not found then
                return null;
            end if;
        end if;
    exception
        when syntax_error_or_access_rule_violation or invalid_schema_name or internal_error or data_exception then
            raise warning using
                message = format('agent-progress: not counted: %s', sqlerrm),
                hint = 'agent-progress check says what is missing.';
            return null;
    end;

    if tg_op = 'TRUNCATE' then
        -- It tells nothing about the tasks that it removed, and those of one partition may be gone alone.
        if current_setting('transaction_isolation') not in ('read committed', 'read uncommitted') then
            raise feature_not_supported using
                message = 'adopted tasks cannot be truncated with an old snapshot: tasks of others would stay counted',
                hint = 'Truncate in a transaction of isolation level READ COMMITTED.';
        end if;
        update {schema}.counting set truncated = truncated + 1 where not live;
        is_live := not found;
        -- What was removed is forgotten. What was counted is repaired; what was not yet is to be counted again.
        update {schema}.workflow_counter as c
        set
            agents_created = case when is_live then c.agents_created end,
            agents_completed = case when is_live then c.agents_completed end,
            agents_failed = case when is_live then c.agents_failed end,
            agents_cancelled = case when is_live then c.agents_cancelled end,
            {nothing_removed}
        where not is_live or c.removed_completed + c.removed_failed + c.removed_cancelled > 0;
        if is_live then
            perform from {schema}.repair_progress();
        end if;
        return null;
    end if;

    loop
        now_created := null;
        {keep}
        loop
            update {schema}.workflow_counter as c
            set
                agents_created = c.agents_created + the_created,
                agents_completed = c.agents_completed + the_completed,
                agents_failed = c.agents_failed + the_failed,
                agents_cancelled = c.agents_cancelled + the_cancelled,
                progress_updated_at = clock_timestamp()
            where {c_is_this}
            returning c.agents_created, c.agents_completed, c.frozen_progress
            into now_created, now_completed, now_frozen;
            exit when found;

            -- The first task of its workflow; or one of a workflow that nobody has counted yet.
            select coalesce(bool_and(s.live), true) into is_live from {schema}.counting as s;
            if not is_live then
                -- The lock lets the end of the back-fill wait for those who saw that it has not come.
                select coalesce(bool_and(s.live), true) into is_live
                from (select g.live from {schema}.counting as g for share) as s;
            end if;
            exit when is_live and the_created <= 0; -- deleted along with its workflow
            insert into {schema}.workflow_counter as c (
                {keys}, agents_created, agents_completed, agents_failed, agents_cancelled
            )
            select
                {this_keys},
                case when is_live then the_created end,
                case when is_live then the_completed end,
                case when is_live then the_failed end,
                case when is_live then the_cancelled end
            on conflict ({keys}) do nothing
            returning c.agents_created, c.agents_completed, null
            into now_created, now_completed, now_frozen;
            if found then
                {describe}
                exit;
            end if;
        end loop;
        if now_created = 0 and the_created < 0 then
            delete from {schema}.workflow_counter as c
            where {c_is_this} and (select coalesce(bool_and(s.live), true) from {schema}.counting as s);
        end if;
        {publish}
        exit when changes is null;
        fetch changes into {this_keys}, the_created, the_completed, the_failed, the_cancelled;
        exit when not found;
    end loop;
    {carry}
    return null;
end
$agent_progress$;

comment on function {schema}.maintain_progress() is
    'Adds what a statement on the tasks changed to the counters of the workflows concerned.';

-- Who may execute a trigger function can hang it on a table of his own and so count tasks that do not exist.
revoke execute on function {schema}.maintain_progress() from public;
