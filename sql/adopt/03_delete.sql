-- A workflow that is deleted takes its counters along. With cascading keys this comes after its tasks were deleted, and
-- before their own trigger: what is not there is left alone then. Where tasks stay, their counters do.

create or replace function {schema}.follow_deletions()
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
    gone refcursor;
    has_tasks boolean;
begin
    begin
        if tg_op = 'DELETE' then
            open gone for
                select {workflow_keys_as_keys} from old_workflow as workflow where {workflow_and:@sql is not null} order by {keys};
        else
            open gone for
                select {c_keys}
                from {schema}.workflow_counter as c
                where not exists (select from {workflows} as workflow where {workflow_and:@sql = c.key_#})
                order by {c_keys};
        end if;
        fetch gone into {this_keys};
        if not found then
            return null;
        end if;
        perform from {counted_tasks} as t, {schema}.counting, {schema}.workflow_counter where false;
    exception
        when syntax_error_or_access_rule_violation or invalid_schema_name or internal_error or data_exception then
            raise warning using
                message = format('agent-progress: counters of deleted workflows stay: %s', sqlerrm),
                hint = 'agent-progress check says what is missing.';
            return null;
    end;

    loop
        perform from {schema}.workflow_counter as c where {c_is_this} for update;
        if found then
            -- With a new snapshot: whatever is committed by now was counted before the lock, all else comes after it.
            has_tasks := exists (select from {counted_tasks} as t where {t_is_this} and t.outcome is not null);
            -- The lock lets the end of the back-fill wait, as in 02: it has to count the row that is marked below.
            if
                not has_tasks
                and (
                    (select coalesce(bool_and(s.live), true) from {schema}.counting as s)
                    or (
                        select coalesce(bool_and(s.live), true)
                        from (select g.live from {schema}.counting as g for share) as s
                    )
                )
            then
                delete from {schema}.workflow_counter as c where {c_is_this};
            else
                -- A row that is not counted yet keeps the back-fill from copying what it saw before.
                update {schema}.workflow_counter as c
                set
                    agents_created = case
                        when has_tasks
                            then c.agents_created - c.removed_completed - c.removed_failed - c.removed_cancelled
                    end,
                    agents_completed = case when has_tasks then c.agents_completed - c.removed_completed end,
                    agents_failed = case when has_tasks then c.agents_failed - c.removed_failed end,
                    agents_cancelled = case when has_tasks then c.agents_cancelled - c.removed_cancelled end,
                    frozen_progress = null,
                    {nothing_removed}
                where {c_is_this};
            end if;
        end if;
        fetch gone into {this_keys};
        exit when not found;
    end loop;
    return null;
end
$agent_progress$;

comment on function {schema}.follow_deletions() is 'Lets a deleted workflow take its counters along.';

revoke execute on function {schema}.follow_deletions() from public;
