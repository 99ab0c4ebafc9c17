-- The application's own columns say what the counters say, whoever writes there. What is not counted yet is left alone.
-- The row of a workflow is locked before its BEFORE trigger fires: whoever counts meanwhile comes after it.

create or replace function {schema}.guard_published()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $agent_progress$
#variable_conflict use_column
<<this>>
declare
    now_created integer;
    now_completed integer;
    now_frozen integer;
begin
    begin
        if tg_op = 'UPDATE' and not ({published_moved}) then
            return new;
        end if;
        select c.agents_created, c.agents_completed, c.frozen_progress
        into now_created, now_completed, now_frozen
        from {schema}.workflow_counter as c
        where {counter_is_of_new};
        if not found then
            select 0, 0 into now_created, now_completed from {schema}.counting having coalesce(bool_and(live), true);
        end if;
        if now_created is not null then
            {publish_assignments}
        end if;
    exception
        when syntax_error_or_access_rule_violation or invalid_schema_name or internal_error or data_exception then
            raise warning using
                message = format('agent-progress: not published: %s', sqlerrm),
                hint = 'agent-progress check says what is missing.';
    end;
    return new;
end
$agent_progress$;

comment on function {schema}.guard_published() is 'Puts what others write to published columns back to what the counters say.';

revoke execute on function {schema}.guard_published() from public;

-- A new workflow can have tasks already, in another session as well: whoever comes second sees what the other did, since
-- both write the row of counters.
create or replace function {schema}.publish_inserted()
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
    now_created integer;
    now_completed integer;
    now_frozen integer;
    is_live boolean;
    inserted refcursor;
begin
    begin
        open inserted for
            select {workflow_keys_as_keys} from new_workflow as workflow where {workflow_and:@sql is not null} order by {keys};
        fetch inserted into {this_keys};
        if not found then
            return null;
        end if;
        perform from {workflows} as workflow, {schema}.workflow_counter as c, {schema}.counting
        where false and {publish_counter_differs};
    exception
        when syntax_error_or_access_rule_violation or invalid_schema_name or internal_error or data_exception then
            raise warning using
                message = format('agent-progress: not published: %s', sqlerrm),
                hint = 'agent-progress check says what is missing.';
            return null;
    end;

    loop
        select coalesce(bool_and(s.live), true) into is_live from {schema}.counting as s;
        if not is_live then
            select coalesce(bool_and(s.live), true) into is_live
            from (select g.live from {schema}.counting as g for share) as s;
        end if;
        insert into {schema}.workflow_counter (
            {keys}, agents_created, agents_completed, agents_failed, agents_cancelled
        )
        select
            {this_keys},
            case when is_live then 0 end,
            case when is_live then 0 end,
            case when is_live then 0 end,
            case when is_live then 0 end
        on conflict ({keys}) do nothing;
        select c.agents_created, c.agents_completed, c.frozen_progress
        into now_created, now_completed, now_frozen
        from {schema}.workflow_counter as c
        where {c_is_this}
        for no key update;
        {publish}
        fetch inserted into {this_keys};
        exit when not found;
    end loop;
    return null;
end
$agent_progress$;

comment on function {schema}.publish_inserted() is 'Publishes the progress of new workflows.';

revoke execute on function {schema}.publish_inserted() from public;
