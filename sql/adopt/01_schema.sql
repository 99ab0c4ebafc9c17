-- What an adoption needs besides the objects of sql/02 to sql/06, which are rendered for the adopted tables: the types
-- that their statuses are mapped to, and a record of what was adopted.
-- In this directory their_… stands for a name of the application's; public, as everywhere, for the schema of ours.

do $$
begin
    if to_regtype('public.workflow_status') is null then
        create type public.workflow_status as enum ('initiated', 'running', 'paused', 'completed', 'failed', 'cancelled');
    end if;
    if to_regtype('public.task_status') is null then
        create type public.task_status as enum ('pending', 'assigned', 'running', 'completed', 'failed', 'cancelled');
    end if;
end
$$;

comment on type public.workflow_status is 'What a status of the application means for the total; completed, or anything else.';
comment on type public.task_status is 'What a status of the application means for the counters; pending stands for all open ones.';

create table if not exists public.adoption (
    name text not null,
    definition jsonb not null,
    script_hash text not null,
    adopted_at timestamptz not null default now(),
    counted_at timestamptz,
    position text,
    constraint adoption_pkey primary key (name)
);

comment on table public.adoption is 'agent-progress: the pair of tables whose progress is kept here; one row.';
comment on column public.adoption.definition is 'What was adopted and how, as agent-progress adopt was told or found out.';
comment on column public.adoption.script_hash is 'MD5 of the SQL that made the objects; another one means that they are to be rendered again.';
comment on column public.adoption.counted_at is 'When the last workflow that was there before had been counted; null until then.';
comment on column public.adoption.position is 'Key of the workflow up to which they have been counted; null at the beginning and at the end.';
