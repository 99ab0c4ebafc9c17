-- Optional: makes agent_task a table that is partitioned by a hash of workflow_id. To be run while nobody writes:
--     psql -1 -v ON_ERROR_STOP=1 -v partitions=16 -f sql/optional/partition.sql
-- It needs room for the tasks twice. Run again, it only gives the partitions the triggers that they lack. There is no way
-- back but a dump and a restore of the rows. What changes for users is in README.md.

\if :{?partitions}
\else
    \set partitions 16
\endif

do $$
declare
    tasks constant regclass := to_regclass('public.agent_task');
    problems text;
begin
    if to_regprocedure('public.maintain_progress()') is null or tasks is null then
        raise object_not_in_prerequisite_state using
            message = 'cannot partition: agent-progress is not installed in this schema',
            hint = 'Run agent-progress migrate first.';
    end if;

    select string_agg(p.problem, '; ' order by p.problem)
    into problems
    from (
        select distinct pg_describe_object(d.classid, d.objid, d.objsubid) || ' depends on it' as problem
        from pg_depend as d
        join pg_class as c on c.oid = tasks and c.relkind = 'r'
        join pg_type as t on t.oid = c.reltype
        left join pg_class as o on d.classid = 'pg_class'::regclass and o.oid = d.objid
        left join pg_constraint as k on d.classid = 'pg_constraint'::regclass and k.oid = d.objid
        left join pg_proc as f on d.classid = 'pg_proc'::regclass and f.oid = d.objid
        left join pg_rewrite as r on d.classid = 'pg_rewrite'::regclass and r.oid = d.objid
        left join pg_class as v on v.oid = r.ev_class
        where
            (
                (d.refclassid = 'pg_class'::regclass and d.refobjid = c.oid)
                or (d.refclassid = 'pg_type'::regclass and d.refobjid in (t.oid, t.typarray))
            )
            -- All of this is made anew or copied, below.
            and not coalesce(o.relkind in ('i', 't') or (o.relkind = 'S' and d.deptype = 'i'), false)
            and not coalesce(k.conrelid = c.oid, false)
            and not (f.oid is not null and f.prosqlbody is null)
            and not coalesce(v.relkind = 'v', false)
            and d.classid not in (
                'pg_type'::regclass, 'pg_trigger'::regclass, 'pg_attrdef'::regclass, 'pg_statistic_ext'::regclass
            )
        union all
        select format('%s is unique without workflow_id', i.indexrelid::regclass)
        from pg_index as i
        join pg_attribute as a on a.attrelid = tasks and a.attname = 'workflow_id'
        where i.indrelid = tasks and i.indisunique and not i.indisprimary and a.attnum <> all (i.indkey::smallint[])
        union all
        select 'it has row-level security, which is to be switched on afterwards'
        from pg_class as c
        where c.oid = tasks and c.relkind = 'r' and c.relrowsecurity
    ) as p;
    if problems is not null then
        raise object_not_in_prerequisite_state using message = format('cannot partition agent_task: %s', problems);
    end if;
end
$$;

select relkind = 'p' as partitioned from pg_class where oid = 'public.agent_task'::regclass \gset
\if :partitioned
\else

lock table public.workflow, public.agent_task in access exclusive mode;

-- Names come out whole; bodies of functions are not looked into, which may find theirs by another search_path.
set local search_path = pg_catalog, pg_temp;
set local check_function_bodies = off;

-- What hangs on the table, as statements that make it again. Then the table moves aside, with all its names.
create temporary table later on commit drop as
select 1 as place, pg_get_indexdef(i.indexrelid) as statement
from pg_index as i
where
    i.indrelid = 'public.agent_task'::regclass
    and not exists (select from pg_constraint as k where k.conindid = i.indexrelid)
union all
select 1, format('alter table public.agent_task add constraint %I %s', k.conname, pg_get_constraintdef(k.oid))
from pg_constraint as k
where k.conrelid = 'public.agent_task'::regclass and k.contype in ('f', 'u', 'x')
union all
select 2, pg_get_triggerdef(t.oid)
from pg_trigger as t
where t.tgrelid = 'public.agent_task'::regclass and not t.tgisinternal
union all
select
    3,
    format(
        'alter table public.agent_task %s trigger %I',
        case t.tgenabled when 'D' then 'disable' when 'A' then 'enable always' else 'enable replica' end,
        t.tgname
    )
from pg_trigger as t
where t.tgrelid = 'public.agent_task'::regclass and not t.tgisinternal and t.tgenabled <> 'O'
union all
select 3, format('comment on %s %s is %L', o.what, o.name, o.comment)
from (
    select 'table' as what, 'public.agent_task' as name, obj_description('public.agent_task'::regclass, 'pg_class') as comment
    union all
    select 'index', i.indexrelid::regclass::text, obj_description(i.indexrelid, 'pg_class')
    from pg_index as i
    where i.indrelid = 'public.agent_task'::regclass
    union all
    select 'trigger', format('%I on public.agent_task', t.tgname), obj_description(t.oid, 'pg_trigger')
    from pg_trigger as t
    where t.tgrelid = 'public.agent_task'::regclass and not t.tgisinternal
) as o
where o.comment is not null
union all
-- Views find their table by its number, not by its name.
select
    4,
    format(
        'create or replace view %s%s as %s',
        v.oid::regclass, ' with (' || array_to_string(v.reloptions, ', ') || ')', pg_get_viewdef(v.oid)
    )
from pg_class as v
where
    v.relkind = 'v'
    and exists (
        select
        from pg_rewrite as r
        join pg_depend as d on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
        where
            r.ev_class = v.oid and d.refclassid = 'pg_class'::regclass and d.refobjid = 'public.agent_task'::regclass
    );

-- Functions that return tasks are made for the type of one table.
create temporary table of_tasks on commit drop as
select distinct
    f.oid,
    f.oid::regprocedure::text as name,
    f.proowner,
    coalesce(f.proacl, acldefault('f', f.proowner)) as acl,
    pg_get_functiondef(f.oid) as definition,
    obj_description(f.oid, 'pg_proc') as comment
from pg_class as c
join pg_type as t on t.oid = c.reltype
join pg_depend as d on d.refclassid = 'pg_type'::regclass and d.refobjid in (t.oid, t.typarray)
join pg_proc as f on d.classid = 'pg_proc'::regclass and f.oid = d.objid
where c.oid = 'public.agent_task'::regclass;

insert into later
select 5, f.definition
from of_tasks as f
union all
select 6, format('alter function %s owner to %s', f.name, f.proowner::regrole)
from of_tasks as f
union all
select 6, format('comment on function %s is %L', f.name, f.comment)
from of_tasks as f;

-- Rights come last, after what default privileges grant on new objects is taken back.
create temporary table rights on commit drop as
select 'table' as what, 'public.agent_task' as name, '' as columns, a.*
from pg_class as c
cross join aclexplode(c.relacl) as a
where c.oid = 'public.agent_task'::regclass
union all
select 'table', 'public.agent_task', format(' (%I)', t.attname), a.*
from pg_attribute as t
cross join aclexplode(t.attacl) as a
where t.attrelid = 'public.agent_task'::regclass and not t.attisdropped
union all
select 'function', f.name, '', a.*
from of_tasks as f
cross join aclexplode(f.acl) as a;

create schema agent_progress_aside;
alter table public.agent_task set schema agent_progress_aside;
select format('drop function %s', f.name) from of_tasks as f \gexec

create table public.agent_task (like agent_progress_aside.agent_task including all excluding indexes)
    partition by hash (workflow_id);

select
    format(
        'create table public.agent_task_p%s partition of public.agent_task for values with (modulus %s, remainder %s)%s',
        lpad(g.n::text, length((:partitions - 1)::text), '0'),
        :partitions,
        g.n,
        ' with (' || array_to_string(c.reloptions, ', ') || ')'
    )
from generate_series(0, :partitions - 1) as g (n)
join pg_class as c on c.oid = 'agent_progress_aside.agent_task'::regclass
order by g.n \gexec

-- No trigger is there yet: the tasks are counted already. Indexes are built afterwards, which is quicker.
select
    format('insert into public.agent_task (%s) select %1$s from agent_progress_aside.agent_task', string_agg(
        quote_ident(a.attname), ', ' order by a.attnum
    ))
from pg_attribute as a
where a.attrelid = 'public.agent_task'::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = '' \gexec

select setval(pg_get_serial_sequence('public.agent_task', 'ordinal'), s.last_value, s.is_called)
from agent_progress_aside.agent_task_ordinal_seq as s \g /dev/null

-- By id first: who names a task by its id alone finds it by index in each partition.
alter table public.agent_task add constraint agent_task_pkey primary key (id, workflow_id);

select l.statement from later as l order by l.place, l.statement \gexec

select format('alter table %s owner to %s', p.relid, c.relowner::regrole)
from pg_partition_tree('public.agent_task') as p
join pg_class as c on c.oid = 'agent_progress_aside.agent_task'::regclass \gexec

drop table agent_progress_aside.agent_task;
drop schema agent_progress_aside;

select distinct format('revoke all on %s %s from %s', o.what, o.name, coalesce(quote_ident(r.rolname), 'public'))
from (
    select 'table' as what, p.relid::text as name, c.relowner as owner, c.relacl as acl
    from pg_partition_tree('public.agent_task') as p
    join pg_class as c on c.oid = p.relid
    union all
    select 'function', f.name, p.proowner, coalesce(p.proacl, acldefault('f', p.proowner))
    from of_tasks as f
    join pg_proc as p on p.oid = f.name::regprocedure
) as o
cross join aclexplode(o.acl) as a
left join pg_roles as r on r.oid = a.grantee
where a.grantee <> o.owner \gexec

select
    format(
        'grant %s%s on %s %s to %s%s',
        g.privilege_type,
        g.columns,
        g.what,
        g.name,
        coalesce(quote_ident(r.rolname), 'public'),
        case when g.is_grantable then ' with grant option' end
    )
from rights as g
left join pg_roles as r on r.oid = g.grantee
where g.grantee <> g.grantor \gexec

analyze public.agent_task;

\endif

-- Each partition carries the counting triggers (04): one that fires once for each statement fires for the table that the
-- statement names, and writes to a partition are to count as well. The others are copied by PostgreSQL; one of them,
-- agent_task_times_insert, is also what makes MERGE show updated rows as they are: without a BEFORE INSERT row trigger on
-- the partition, an update that follows an insert is shown the inserted row (PostgreSQL 15 to 18).
do $$
declare
    part regclass;
    event text;
    seen text;
begin
    for part in
        select p.relid
        from pg_partition_tree('public.agent_task') as p
        where p.level > 0
    loop
        -- Before PostgreSQL 17 a partition knows nothing of the identity of the whole.
        if exists (
            select
            from pg_attribute as a
            where a.attrelid = part and a.attname = 'ordinal' and a.attidentity = '' and not a.atthasdef
        ) then
            execute format(
                'alter table %s alter ordinal set default nextval(%L)',
                part, pg_get_serial_sequence('public.agent_task', 'ordinal')
            );
        end if;
        for event, seen in
            values
                ('insert', 'referencing new table as changed_task'),
                ('update', 'referencing old table as old_task new table as new_task'),
                ('delete', 'referencing old table as changed_task'),
                ('truncate', '')
        loop
            execute format(
                'create or replace trigger agent_task_progress_%s after %1$s on %s %s for each statement'
                ' execute function %s',
                event, part, seen, 'public.maintain_progress()'::regprocedure
            );
            execute format(
                'comment on trigger agent_task_progress_%s on %s is %L',
                event, part, 'Counts what is written to this partition alone.'
            );
        end loop;
    end loop;
end
$$;
