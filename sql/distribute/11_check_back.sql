-- Refuses with nothing changed, and says all that is in the way at once.

-- One connection to each node, as on the way there; elsewhere than on Citus the two mean nothing.
set local citus.multi_shard_modify_mode = 'sequential';
set local citus.enable_unsafe_triggers = on;

do $$
declare
    problems text[] := '{}';
    names text;
begin
    if to_regproc('public.refuse_truncate') is null then
        raise object_not_in_prerequisite_state using
            message = 'cannot go back: agent-progress distribute was never run in this database';
    end if;

    select string_agg(g.tgname || ' on ' || g.tgrelid::regclass::text, ', ' order by g.tgname)
    into names
    from pg_catalog.pg_trigger as g
    where
        g.tgrelid in ('public.workflow'::regclass, 'public.agent_task'::regclass)
        and not g.tgisinternal
        and g.tgenabled not in ('O', 'A');
    if names is not null then
        problems := problems || format('triggers are disabled: %s', names);
    end if;

    if (select count(*) from public.workflow_progress_drift) > 0 then
        problems := problems || 'stored and counted progress differ: agent-progress repair'::text;
    end if;

    if to_regnamespace('agent_progress_distributed') is not null then
        problems := problems || 'there is a schema agent_progress_distributed'::text;
    end if;

    if cardinality(problems) > 0 then
        raise object_not_in_prerequisite_state using
            message = 'cannot go back: ' || array_to_string(problems, '; ');
    end if;
end
$$;
