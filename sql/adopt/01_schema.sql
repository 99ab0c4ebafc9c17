-- What an adoption consists of, besides functions and triggers: one schema with a row of counters for each workflow.
-- A row whose counters are null has not been counted yet: null + n stays null. Names in braces are slots, filled in by
-- pyapp/adopt/render.py; `task` and `workflow` are rows of the application's tables.

create schema if not exists {schema};

do $agent_progress$
begin
    create type {schema}.workflow_status as enum ('initiated', 'running', 'paused', 'completed', 'failed', 'cancelled');
exception
    when duplicate_object then null;
end
$agent_progress$;

create table if not exists {schema}.workflow_counter (
    {list:key_# @type not null},
    agents_created integer,
    agents_completed integer,
    agents_failed integer,
    agents_cancelled integer,
    removed_completed integer not null default 0,
    removed_failed integer not null default 0,
    removed_cancelled integer not null default 0,
    kept_by xid8 default pg_current_xact_id(),
    kept_completed integer not null default 0,
    kept_failed integer not null default 0,
    kept_cancelled integer not null default 0,
    frozen_progress integer,
    described jsonb,
    created_at timestamptz not null default clock_timestamp(),
    progress_updated_at timestamptz not null default clock_timestamp(),
    {identity_column}
    constraint workflow_counter_pkey primary key ({keys})
) with (fillfactor = 50);

comment on table {schema}.workflow_counter is
    'agent-progress: tasks of each workflow, counted by triggers; null counters: not counted yet.';
comment on column {schema}.workflow_counter.agents_created is 'All tasks that count, whatever their status; with those removed.';
comment on column {schema}.workflow_counter.agents_completed is 'Tasks that are completed; with those removed.';
comment on column {schema}.workflow_counter.agents_failed is 'Tasks that failed; with those removed.';
comment on column {schema}.workflow_counter.agents_cancelled is 'Tasks that were cancelled; with those removed.';
comment on column {schema}.workflow_counter.removed_completed is 'Completed tasks that were deleted after the end, and still count.';
comment on column {schema}.workflow_counter.removed_failed is 'Failed tasks that were deleted after the end, and still count.';
comment on column {schema}.workflow_counter.removed_cancelled is 'Cancelled tasks that were deleted after the end, and still count.';
comment on column {schema}.workflow_counter.kept_by is 'Transaction that made the row, kept removed tasks last, or counts it anew.';
comment on column {schema}.workflow_counter.kept_completed is 'Of removed_completed: kept by that transaction.';
comment on column {schema}.workflow_counter.kept_failed is 'Of removed_failed: kept by that transaction.';
comment on column {schema}.workflow_counter.kept_cancelled is 'Of removed_cancelled: kept by that transaction.';
comment on column {schema}.workflow_counter.frozen_progress is
    'While set, the percentage that is shown and published, whatever is counted: what the application said before.';
comment on column {schema}.workflow_counter.described is 'Where there is no table of workflows: what the first task says of it.';

create table if not exists {schema}.counting (
    counts text,
    live boolean not null,
    truncated integer not null default 0
);

comment on table {schema}.counting is 'agent-progress: how far counting is; one row. No row: live.';
comment on column {schema}.counting.counts is 'MD5 of what is counted; another one counts anew.';
comment on column {schema}.counting.live is 'Whether all that was there before has been counted: a missing row of counters means no tasks.';
comment on column {schema}.counting.truncated is 'How often what the back-fill had counted became void: by TRUNCATE, or by counting anew.';

-- A column that a key is read from can have another type by now: counters take it over, and what shows it is made anew, as
-- is all of it below. Rights are given back at the end.
do $agent_progress$
declare
    changed jsonb;
begin
    if to_regprocedure('{schema}.adoption()') is null then
        return;
    end if;
    changed := {definition}::jsonb;
    if
        jsonb_path_query_array({schema}.adoption(), '$.**.type')
        is not distinct from jsonb_path_query_array(changed, '$.**.type')
    then
        return;
    end if;
    perform set_config(
        'agent_progress.granted',
        (
            select string_agg(
                format('grant %s on %s to %s;', a.privilege_type, c.oid::regclass, coalesce(quote_ident(r.rolname), 'public')), ' '
            )
            from pg_class as c
            cross join lateral aclexplode(c.relacl) as a
            left join pg_roles as r on r.oid = a.grantee
            where c.relnamespace = '{schema}'::regnamespace and c.relkind = 'v' and a.grantee <> c.relowner
        ),
        true
    );
    drop function if exists {schema}.repair_progress;
    execute (
        select coalesce('drop view ' || string_agg(c.oid::regclass::text, ', '), '')
        from pg_class as c
        where c.relnamespace = '{schema}'::regnamespace and c.relkind = 'v'
    );
    drop function if exists {schema}.read_workflows, {schema}.read_tasks, {schema}.compare_progress;
    alter table {schema}.workflow_counter {retyped_keys};
end
$agent_progress$;

-- The record of the adoption is a function, so that a dump of the schema alone has it.
create or replace function {schema}.adoption()
returns jsonb
language sql
immutable
as $agent_progress$select {definition}::jsonb$agent_progress$;

comment on function {schema}.adoption() is 'agent-progress: what was adopted, and how.';

-- Rows that come from outside, as from a restore of data, keep what was removed, and no more: their tasks count
-- themselves, or are there already, and then nobody has counted them. The default of kept_by tells rows of our own.
create or replace function {schema}.keep_counters()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $agent_progress$
#variable_conflict use_column
<<this>>
declare
    {each:key_# @type;}
    now_created integer;
    now_completed integer;
    now_frozen integer;
    alone boolean; -- no task has this key, and none is to be counted later
begin
    if tg_table_name = 'counting' then
        if exists (select from {schema}.counting) then
            return null;
        end if;
        return new;
    end if;
    update {schema}.workflow_counter as c
    set
        agents_created = c.agents_created + new.removed_completed + new.removed_failed + new.removed_cancelled,
        agents_completed = c.agents_completed + new.removed_completed,
        agents_failed = c.agents_failed + new.removed_failed,
        agents_cancelled = c.agents_cancelled + new.removed_cancelled,
        removed_completed = c.removed_completed + new.removed_completed,
        removed_failed = c.removed_failed + new.removed_failed,
        removed_cancelled = c.removed_cancelled + new.removed_cancelled
    where {c_is_new}
    returning c.agents_created, c.agents_completed, c.frozen_progress into now_created, now_completed, now_frozen;
    if found then
        {each:this.key_# := new.key_#;}
        {publish}
        return null;
    end if;
    alone := (select coalesce(bool_and(s.live), true) from {schema}.counting as s)
        and not exists (select from {counted_tasks} as t where {t_is_new});
    now_created := case when alone then new.removed_completed + new.removed_failed + new.removed_cancelled end;
    if now_created = 0 and new.frozen_progress is null then
        return null;
    end if;
    new.agents_created := now_created;
    new.agents_completed := case when alone then new.removed_completed end;
    new.agents_failed := case when alone then new.removed_failed end;
    new.agents_cancelled := case when alone then new.removed_cancelled end;
    now_completed := new.agents_completed;
    now_frozen := new.frozen_progress;
    {each:this.key_# := new.key_#;}
    {publish}
    return new;
end
$agent_progress$;

comment on function {schema}.keep_counters() is 'Trusts no counters that come from outside.';

create or replace trigger workflow_counter_insert
    before insert on {schema}.workflow_counter
    for each row
    when (new.kept_by is distinct from pg_current_xact_id())
    execute function {schema}.keep_counters();

create or replace trigger counting_insert
    before insert on {schema}.counting
    for each row
    execute function {schema}.keep_counters();

insert into {schema}.counting (live) values (false);
