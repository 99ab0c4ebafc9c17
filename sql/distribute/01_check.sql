-- Refuses with nothing changed, and says all that is in the way at once. What is asked of PostgreSQL itself.

do $$
declare
    tables constant text[] := array[
        'workflow', 'agent_task', 'workflow_stage', 'workflow_event', 'workflow_transition', 'stage_definition'
    ];
    triggers constant text[] := array[
        'agent_task_progress_insert',
        'agent_task_progress_update',
        'agent_task_progress_delete',
        'agent_task_progress_truncate',
        'agent_task_reopened',
        'agent_task_times',
        'agent_task_times_insert',
        'workflow_stages',
        'workflow_events',
        'zy_workflow_transition_guard',
        'zz_workflow_progress_guard'
    ];
    problems text[] := '{}';
    here regclass[];
    names text;
begin
    here := array(
        select to_regclass('public.' || t)
        from unnest(tables) with ordinality as u (t, place)
        where to_regclass('public.' || t) is not null
        order by u.place
    );
    if cardinality(here) < cardinality(tables) or to_regclass('public.workflow_progress_drift') is null then
        raise object_not_in_prerequisite_state using
            message = 'cannot distribute: the schema is not installed in this database, or not all of it',
            hint = 'agent-progress migrate';
    end if;

    if exists (
        select
        from pg_catalog.pg_constraint as c
        where c.conrelid = 'public.agent_task'::regclass and c.contype = 'p' and cardinality(c.conkey) = 2
    ) then
        problems := problems || 'agent_task has the key (workflow_id, id) already: it is distributed, or partitioned'::text;
    end if;

    select string_agg(c.oid::regclass::text, ', ' order by c.relname)
    into names
    from pg_catalog.pg_class as c
    where c.oid = any (here) and c.relkind = 'p';
    if names is not null then
        problems := problems || format('%s is partitioned: shards take the place of partitions, undo that first', names);
    end if;

    select string_agg(t, ', ')
    into names
    from unnest(triggers) as t
    where not exists (
        select
        from pg_catalog.pg_trigger as g
        where g.tgname = t and g.tgrelid = any (here) and g.tgenabled in ('O', 'A')
    );
    if names is not null then
        problems := problems || format('triggers are missing or disabled: %s; agent-progress check says more', names);
    end if;

    if to_regproc('public.notify_progress') is not null then
        problems := problems
            || 'notifications are on, and would be sent where nobody listens: agent-progress notify off'::text;
    end if;

    select string_agg(format('%s on %s', g.tgname, g.tgrelid::regclass), ', ' order by g.tgname)
    into names
    from pg_catalog.pg_trigger as g
    where
        g.tgrelid = any (here)
        and not g.tgisinternal
        and g.tgname <> all (triggers)
        and g.tgname <> 'workflow_notify';
    if names is not null then
        problems := problems
            || format('triggers of your own: %s; drop them, and try them on distributed tables afterwards', names);
    end if;

    select string_agg(format('%s on %s', c.conname, c.conrelid::regclass), ', ' order by c.conname)
    into names
    from pg_catalog.pg_constraint as c
    where
        c.contype = 'f'
        and (c.conrelid = any (here) or c.confrelid = any (here))
        and (c.connamespace <> 'public'::regnamespace or c.conname not in (
            'agent_task_workflow_id_fkey', 'workflow_stage_workflow_id_fkey', 'workflow_event_workflow_id_fkey'
        ));
    if names is not null then
        problems := problems || format('foreign keys of your own: %s; drop them first', names);
    end if;

    -- What is unique can be seen to only where all of its rows are in one place.
    select string_agg(i.indexrelid::regclass::text, ', ' order by i.indexrelid::regclass::text)
    into names
    from pg_catalog.pg_index as i
    join pg_catalog.pg_class as c on c.oid = i.indrelid
    join pg_catalog.pg_attribute as a on a.attrelid = i.indrelid
    where
        i.indrelid = any (here[1:4])
        and i.indisunique
        and a.attname = case c.relname when 'workflow' then 'id' else 'workflow_id' end
        and a.attnum <> all (i.indkey::smallint[])
        and i.indexrelid::regclass::text !~ '^(public[.])?(agent_task|workflow_stage|workflow_event)_pkey$';
    if names is not null then
        problems := problems || format('unique without the id of the workflow: %s; drop that, or add it', names);
    end if;

    select string_agg(c.oid::regclass::text, ', ' order by c.relname)
    into names
    from pg_catalog.pg_class as c
    where c.oid = any (here) and (c.relrowsecurity or c.relforcerowsecurity);
    if names is not null then
        problems := problems || format('row-level security on %s: this was never tried on distributed tables', names);
    end if;

    select string_agg(distinct x.grantee::regrole::text, ', ')
    into names
    from pg_catalog.pg_attribute as a
    cross join aclexplode(a.attacl) as x
    where a.attrelid = any (here);
    if names is not null then
        problems := problems
            || format('rights on single columns, which Citus has not: %s; agent-progress grant --agent … --revoke', names);
    end if;

    select string_agg(c.oid::regclass::text, ', ' order by c.oid::regclass::text)
    into names
    from pg_catalog.pg_class as c
    where c.relname = 'adoption' and obj_description(c.oid, 'pg_class') like 'agent-progress: the pair of tables %';
    if names is not null then
        problems := problems || format('adopted tables in this database (%s): agent-progress unadopt', names);
    end if;

    if (select count(*) from public.workflow_progress_drift) > 0 then
        problems := problems || 'stored and counted progress differ: agent-progress repair'::text;
    end if;

    if cardinality(problems) > 0 then
        raise object_not_in_prerequisite_state using
            message = 'cannot distribute: ' || array_to_string(problems, '; ');
    end if;
end
$$;
