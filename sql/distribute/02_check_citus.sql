-- The same, of Citus and of its nodes.

do $$
declare
    problems text[] := '{}';
    names text;
begin
    if not exists (select from pg_catalog.pg_extension as e where e.extname = 'citus') then
        raise object_not_in_prerequisite_state using
            message = 'cannot distribute: Citus is not installed in this database',
            hint = 'create extension citus, here and on each worker, and citus_add_node for each of these';
    end if;

    select e.extversion into names from pg_catalog.pg_extension as e where e.extname = 'citus';
    if split_part(names, '.', 1)::integer < 12 then
        problems := problems || format('Citus is version %s here, and has to be 12 or newer', names);
    end if;
    if not citus_is_coordinator() then
        problems := problems || 'this node is a worker: run it on the coordinator'::text;
    end if;
    if not exists (select from pg_dist_node as n where n.isactive and n.shouldhaveshards) then
        problems := problems
            || 'no node may hold shards: citus_add_node, or citus_set_node_property(…, ''shouldhaveshards'', true)'::text;
    end if;
    if not exists (select from pg_dist_node as n where n.groupid = 0) then
        problems := problems || 'the coordinator does not know its own address: citus_set_coordinator_host'::text;
    end if;
    if current_setting('citus.shard_replication_factor') <> '1' then
        problems := problems || 'citus.shard_replication_factor is not 1: each copy of a shard would count'::text;
    end if;
    if exists (select from pg_dist_partition as d where d.logicalrelid::text ~ '^(public[.])?(workflow|agent_task)$') then
        problems := problems || 'the tables are distributed already'::text;
    end if;

    -- Each transaction that writes on more than one node is prepared on all of them.
    select string_agg(format('%s:%s', n.nodename, n.nodeport), ', ' order by n.nodeid)
    into names
    from run_command_on_all_nodes(
        'select current_setting(''max_prepared_transactions'')', give_warning_for_connection_errors => true
    ) as r
    join pg_dist_node as n on n.nodeid = r.nodeid
    where not r.success or r.result = '0';
    if names is not null then
        problems := problems || format('max_prepared_transactions is 0, or no connection, on %s', names);
    end if;

    if cardinality(problems) > 0 then
        raise object_not_in_prerequisite_state using
            message = 'cannot distribute: ' || array_to_string(problems, '; ');
    end if;
end
$$;
