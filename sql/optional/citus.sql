-- Optional: spreads the tables over the nodes of a Citus cluster (12 or newer), each workflow on one node with its tasks,
-- stages and events; the triggers count there. To be run on the coordinator while nobody writes:
--     psql -1 -v ON_ERROR_STOP=1 -f sql/optional/citus.sql
-- It needs room for the rows twice. There is no way back but a dump and a restore of the rows. What changes for users is
-- in README.md. Run again, as after a migrate that renewed functions, it only gives two of them their form for Citus.

do $$
declare
    tables constant regclass[] := array[
        to_regclass('public.workflow'),
        to_regclass('public.agent_task'),
        to_regclass('public.workflow_stage'),
        to_regclass('public.workflow_event'),
        to_regclass('public.workflow_transition'),
        to_regclass('public.stage_definition')
    ];
    drifted boolean := false;
    problems text;
begin
    if to_regprocedure('public.maintain_progress()') is null or array_position(tables, null) is not null then
        raise object_not_in_prerequisite_state using
            message = 'cannot distribute: agent-progress is not installed in this schema',
            hint = 'Run agent-progress migrate first.';
    end if;
    if not exists (select from pg_extension as e where e.extname = 'citus') then
        raise object_not_in_prerequisite_state using
            message = 'cannot distribute: the extension citus is missing in this database',
            hint = 'create extension citus, here and on each worker; then citus_set_coordinator_host and citus_add_node.';
    end if;

    if not exists (select from pg_dist_partition as d where d.logicalrelid = tables[1]) then
        drifted := exists (select from public.workflow_progress_drift);
    end if;
    select string_agg(p.problem, '; ' order by p.problem)
    into problems
    from (
        select 'Citus 12 or newer is needed' as problem
        from pg_extension as e
        where e.extname = 'citus' and split_part(e.extversion, '.', 1)::integer < 12
        union all
        select 'this node is a worker: run it on the coordinator'
        where not citus_is_coordinator()
        union all
        select 'the coordinator does not know its own address: citus_set_coordinator_host'
        where not exists (select from pg_dist_node as n where n.groupid = 0)
        union all
        select 'no node may hold shards: citus_add_node, or citus_set_node_property(..., ''shouldhaveshards'', true)'
        where not exists (select from pg_dist_node as n where n.isactive and n.shouldhaveshards)
        union all
        select 'citus.shard_replication_factor is not 1: each copy of a shard would count'
        where current_setting('citus.shard_replication_factor') <> '1'
        union all
        -- Who writes on more than one node in a transaction prepares it on each of them.
        select format('%s:%s: no connection, or max_prepared_transactions is 0', n.nodename, n.nodeport)
        from run_command_on_all_nodes(
            'select current_setting(''max_prepared_transactions'')', give_warning_for_connection_errors => true
        ) as r
        join pg_dist_node as n on n.nodeid = r.nodeid
        where not r.success or r.result = '0'
        union all
        select format('%s is partitioned: shards take the place of partitions', c.oid::regclass)
        from pg_class as c
        where c.oid = any (tables) and c.relkind = 'p'
        union all
        select format('row-level security on %s was never tried on Citus', c.oid::regclass)
        from pg_class as c
        where c.oid = any (tables) and c.relrowsecurity
        union all
        select format('trigger %s on %s is yours, or sends notifications: drop it', t.tgname, t.tgrelid::regclass)
        from pg_trigger as t
        where
            t.tgrelid = any (tables)
            and not t.tgisinternal
            and t.tgname not in (
                'agent_task_progress_insert',
                'agent_task_progress_update',
                'agent_task_progress_delete',
                'agent_task_progress_truncate',
                'agent_task_times',
                'agent_task_times_insert',
                'workflow_events',
                'workflow_parent_insert',
                'workflow_parent_update',
                'workflow_stages',
                'zy_workflow_transition_guard',
                'zz_workflow_progress_guard'
            )
        union all
        select format('foreign key %s on %s is yours: drop it', k.conname, k.conrelid::regclass)
        from pg_constraint as k
        where
            k.contype = 'f'
            and (k.conrelid = any (tables) or k.confrelid = any (tables))
            and k.conname not in (
                'workflow_parent_id_fkey',
                'agent_task_workflow_id_fkey',
                'workflow_stage_workflow_id_fkey',
                'workflow_event_workflow_id_fkey'
            )
        union all
        select format('%s is unique without the id of the workflow', i.indexrelid::regclass)
        from pg_index as i
        join pg_attribute as a on a.attrelid = i.indrelid
        where
            i.indrelid = any (tables[1:4])
            and i.indisunique
            and not i.indisprimary
            and a.attname = case when i.indrelid = tables[1] then 'id' else 'workflow_id' end
            and a.attnum <> all (i.indkey::smallint[])
        union all
        select format('rights on single columns of %s, which Citus has not', a.attrelid::regclass)
        from pg_attribute as a
        where a.attrelid = any (tables) and a.attacl is not null
        group by a.attrelid
        union all
        select 'stored and counted progress differ: select * from repair_progress()'
        where drifted
    ) as p;
    if problems is not null then
        raise object_not_in_prerequisite_state using message = format('cannot distribute: %s', problems);
    end if;
end
$$;

select exists (
    select from pg_dist_partition as d where d.logicalrelid = 'public.workflow'::regclass
) as distributed \gset
\if :distributed
\else

lock table
    public.agent_task,
    public.workflow,
    public.workflow_stage,
    public.workflow_event,
    public.workflow_transition,
    public.stage_definition
in access exclusive mode;

-- What moves to a shard was counted and recorded already.
alter table public.workflow disable trigger user;
alter table public.agent_task disable trigger user;

-- A shard can watch over keys by itself that begin with the id of the workflow. A parent may lie on another node: no
-- foreign key can see to it.
alter table public.workflow drop constraint workflow_parent_id_fkey;
alter table public.agent_task drop constraint agent_task_workflow_id_fkey;
alter table public.workflow_stage drop constraint workflow_stage_workflow_id_fkey;
alter table public.workflow_event drop constraint workflow_event_workflow_id_fkey;
alter table public.agent_task drop constraint agent_task_pkey;
alter table public.agent_task add constraint agent_task_pkey primary key (workflow_id, id);
alter table public.workflow_stage drop constraint workflow_stage_pkey;
alter table public.workflow_stage add constraint workflow_stage_pkey primary key (workflow_id, id);
alter table public.workflow_event drop constraint workflow_event_pkey;
alter table public.workflow_event add constraint workflow_event_pkey primary key (workflow_id, id);

-- A shard cannot count what is left after a TRUNCATE: it would ask for the others.
create function public.refuse_truncate()
returns trigger
language plpgsql
security invoker
set search_path = pg_catalog, pg_temp
as $$
begin
    raise feature_not_supported using
        message = 'a distributed agent_task cannot be truncated: its tasks would stay counted',
        hint = 'Delete from it instead, or from workflow.';
end
$$;

comment on function public.refuse_truncate() is 'Refuses TRUNCATE of the distributed agent_task.';

revoke execute on function public.refuse_truncate() from public;

drop trigger agent_task_progress_truncate on public.agent_task;

create trigger agent_task_progress_truncate
    before truncate on public.agent_task
    for each statement
    execute function public.refuse_truncate();

comment on trigger agent_task_progress_truncate on public.agent_task is
    'Refuses to empty the table, which could not be counted while it is distributed.';

-- One connection to each node: what a transaction did through one of several, the others would not see. And triggers,
-- which Citus calls unsafe since they might reach for rows of other nodes: these write to their own workflow alone.
set local citus.multi_shard_modify_mode = 'sequential';
set local citus.enable_unsafe_triggers = on;

select create_reference_table('public.workflow_transition') \g /dev/null
select create_reference_table('public.stage_definition') \g /dev/null
select create_distributed_table('public.workflow', 'id') \g /dev/null
select create_distributed_table('public.agent_task', 'workflow_id', colocate_with => 'public.workflow') \g /dev/null
select create_distributed_table('public.workflow_stage', 'workflow_id', colocate_with => 'public.workflow') \g /dev/null
select create_distributed_table('public.workflow_event', 'workflow_id', colocate_with => 'public.workflow') \g /dev/null

-- The rows as they were before, which nobody sees any more.
select truncate_local_data_after_distributing_table('public.workflow') \g /dev/null
select truncate_local_data_after_distributing_table('public.workflow_transition') \g /dev/null
select truncate_local_data_after_distributing_table('public.stage_definition') \g /dev/null

alter table public.agent_task
    add constraint agent_task_workflow_id_fkey foreign key (workflow_id) references public.workflow (id) on delete cascade;
alter table public.workflow_stage
    add constraint workflow_stage_workflow_id_fkey foreign key (workflow_id) references public.workflow (id) on delete cascade;
alter table public.workflow_event
    add constraint workflow_event_workflow_id_fkey foreign key (workflow_id) references public.workflow (id) on delete cascade;

alter table public.workflow enable trigger user;
alter table public.agent_task enable trigger user;

-- Functions of triggers and of views went along. These are called by them, or by whoever is connected to a worker.
select create_distributed_function(f.oid)
from pg_proc as f
where
    f.pronamespace = (select c.relnamespace from pg_class as c where c.oid = 'public.workflow'::regclass)
    and f.proname in (
        'create_workflow',
        'add_tasks',
        'report_tasks',
        'report_task',
        'plan_stages',
        'transition_workflow',
        'advance_workflow',
        'repair_progress',
        'settle_workflow',
        'archive_workflows'
    ) \g /dev/null

\endif

-- The tasks of a workflow are found by equality alone, as Citus needs to find the node; the index is the primary key here.
select replace(
    pg_get_functiondef('public.report_tasks(uuid, jsonb)'::regprocedure),
    'a.workflow_id is not distinct from report_tasks.workflow_id',
    'a.workflow_id = report_tasks.workflow_id'
) \gexec

-- A parent may lie on another node, where a trigger cannot look: cycles and depth are not checked.
create or replace function public.guard_parent()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
begin
    return new;
end
$$;

comment on function public.guard_parent() is 'Checks nothing on Citus: the parent may lie on another node.';

-- Nor can a recursion reach across nodes: there, a tree is the workflow alone.
create or replace view public.workflow_tree_progress
with (security_invoker = true)
as
select
    p.workflow_id,
    1 as workflows,
    1 as depth,
    p.progress,
    p.progress_percentage,
    p.agents_completed,
    p.agents_total,
    p.agents_created,
    p.agents_failed,
    p.agents_cancelled,
    p.agents_open,
    p.agents_planned,
    p.settled_percentage,
    p.last_updated_at
from public.workflow_progress as p;

comment on view public.workflow_tree_progress is
    'On Citus the progress of each workflow alone: what is below it may lie on other nodes.';

-- So that agent-progress check knows that these are meant to be so.
set local search_path = pg_catalog, pg_temp;
update public.installed_object as i
set installed_md5 = md5(o.definition)
from (
    select 'function' as kind, f.proname::text as name, pg_get_functiondef(f.oid) as definition
    from pg_proc as f
    where f.oid in ('public.report_tasks(uuid, jsonb)'::regprocedure, 'public.guard_parent()'::regprocedure)
    union all
    select 'trigger', t.tgname::text, pg_get_triggerdef(t.oid)
    from pg_trigger as t
    where t.tgrelid = 'public.agent_task'::regclass and t.tgname = 'agent_task_progress_truncate'
    union all
    select 'view', v.relname::text, concat(pg_get_viewdef(v.oid), v.reloptions)
    from pg_class as v
    where v.oid = 'public.workflow_tree_progress'::regclass
) as o
where i.kind = o.kind and i.name = o.name;
