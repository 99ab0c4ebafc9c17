-- Repairs whatever is wrong, exactly, while others write: rows of counters are locked one by one in the order of keys,
-- then counted in a later statement, so with a newer snapshot.

create or replace function {schema}.repair_progress(workflow {id_type} default null)
returns setof {schema}.workflow_progress_drift
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $agent_progress$
#variable_conflict use_column
<<this>>
declare
    {each:key_# @type;}
begin
    for {this_keys} in
        select {k_keys}
        from {schema}.compare_progress() as k
        join {schema}.workflow_progress_drift as d on d.workflow_id = k.workflow_id
        where repair_progress.workflow is null or ({k_is_argument} and d.workflow_id = repair_progress.workflow)
        order by {k_keys}
    loop
        insert into {schema}.workflow_counter ({keys}) values ({this_keys}) on conflict ({keys}) do nothing;
        update {schema}.workflow_counter as c
        set
            kept_by = pg_current_xact_id(),
            kept_completed = 0,
            kept_failed = 0,
            kept_cancelled = 0
        where {c_is_this};
    end loop;

    return query
    select d.*
    from {schema}.workflow_progress_drift as d
    where
        (repair_progress.workflow is null or d.workflow_id = repair_progress.workflow)
        and d.workflow_id in (
            select {counter_id} from {schema}.workflow_counter as c where c.kept_by = pg_current_xact_id()
        );

    update {schema}.workflow_counter as c
    set
        agents_created = k.calculated_created,
        agents_completed = k.calculated_completed,
        agents_failed = k.calculated_failed,
        agents_cancelled = k.calculated_cancelled,
        progress_updated_at = clock_timestamp()
    from {schema}.compare_progress() as k
    where
        {c_is_k}
        and (repair_progress.workflow is null or {k_is_argument})
        and c.kept_by = pg_current_xact_id()
        and (c.agents_created, c.agents_completed, c.agents_failed, c.agents_cancelled)
            is distinct from
            (k.calculated_created, k.calculated_completed, k.calculated_failed, k.calculated_cancelled);
    {publish_counted}
    delete from {schema}.workflow_counter as c
    where
        c.kept_by = pg_current_xact_id()
        and c.agents_created = 0
        and (select coalesce(bool_and(s.live), true) from {schema}.counting as s);
end
$agent_progress$;

comment on function {schema}.repair_progress({id_type}) is
    'Recounts one workflow, or all, and repairs those that drifted; returns what was stored and what is stored now.';

revoke execute on function {schema}.repair_progress({id_type}) from public;
