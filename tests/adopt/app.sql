-- An application that has workflows and tasks, and a progress that it writes itself: the names are those that the tests
-- of our own tables use, so that these tests run on it as they are.
create schema app;
grant usage on schema app to public;

create type app.workflow_status as enum ('initiated', 'running', 'paused', 'completed', 'failed', 'cancelled');
create type app.task_status as enum ('pending', 'assigned', 'running', 'completed', 'failed', 'cancelled');

create table app.workflow (
    id uuid not null default gen_random_uuid() constraint workflow_pkey primary key,
    name text not null,
    description text,
    type text not null,
    status app.workflow_status not null default 'initiated',
    current_stage text not null default 'initialization',
    priority text,
    progress integer default 0,
    agents_planned integer,
    version integer not null default 1,
    trace_id text,
    created_at timestamptz not null default now(),
    updated_at timestamptz not null default now(),
    completed_at timestamptz
);

create table app.agent_task (
    id uuid not null default gen_random_uuid() constraint agent_task_pkey primary key,
    workflow_id uuid not null
        constraint agent_task_workflow_id_fkey references app.workflow (id) on delete cascade,
    external_id text,
    agent_type text not null,
    status app.task_status not null default 'pending',
    payload jsonb not null default '{}',
    retry_count integer not null default 0,
    completed_at timestamptz
);
create index agent_task_workflow_id_status_completed_at_idx on app.agent_task (workflow_id, status, completed_at);

create table app.workflow_stage (
    workflow_id uuid not null references app.workflow (id) on delete cascade
);

create table app.workflow_event (
    workflow_id uuid not null references app.workflow (id) on delete cascade,
    event_type text not null,
    payload jsonb not null default '{}'
);
