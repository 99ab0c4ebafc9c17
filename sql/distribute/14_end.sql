-- Refuses, with nothing changed, to leave behind what is not of the schema, and ends only if all is right.

do $$
declare
    lost text;
begin
    select string_agg(o.what, ', ' order by o.what)
    into lost
    from (
        select format('column %s of %s', a.attname, c.relname) as what
        from pg_catalog.pg_attribute as a
        join pg_catalog.pg_class as c on c.oid = a.attrelid
        where c.relnamespace = 'agent_progress_distributed'::regnamespace and c.relkind = 'r' and a.attnum > 0
        except
        select format('column %s of %s', a.attname, c.relname)
        from pg_catalog.pg_attribute as a
        join pg_catalog.pg_class as c on c.oid = a.attrelid
        where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.attnum > 0
    ) as o;
    if lost is not null then
        raise object_not_in_prerequisite_state using
            message = 'cannot go back: these of yours would be lost: ' || lost,
            hint = 'Write down how they are made, drop them, go back, and make them again.';
    end if;
    if (select count(*) from public.workflow_progress_drift) > 0 then
        raise object_not_in_prerequisite_state using
            message = 'stored and counted progress differ after the move: nothing was changed',
            hint = 'This is a fault of agent-progress or of Citus; please tell us.';
    end if;
end
$$;

drop schema agent_progress_distributed cascade;
