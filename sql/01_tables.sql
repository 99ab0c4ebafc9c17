-- The tables of an agent workflow engine. A workflow has tasks, each done by one agent; stages and events tell its
-- course. Triggers maintain the columns of workflow that count tasks (04, 05). No index names one of them and pages keep
-- room for new row versions, so that updates of them are heap-only (HOT). The table has no CHECK constraint, whatever
-- columns it would name: each of these updates would evaluate it.

create type public.workflow_status as enum ('initiated', 'running', 'paused', 'completed', 'failed', 'cancelled');
comment on type public.workflow_status is 'Status of a workflow; completed, failed and cancelled mean that it ended.';

create type public.task_status as enum ('pending', 'assigned', 'running', 'completed', 'failed', 'cancelled');
-- Settled statuses come last: in all files `status < 'completed'` means open.
comment on type public.task_status is 'Status of a task; completed, failed and cancelled are settled, the others open.';

create type public.stage_status as enum ('pending', 'running', 'completed', 'failed', 'skipped');
comment on type public.stage_status is 'Status of a stage of a workflow.';

create type public.priority_level as enum ('low', 'medium', 'high', 'critical');
comment on type public.priority_level is 'How urgent a workflow or a task is.';

create table public.workflow (
    id uuid not null default gen_random_uuid(),
    name text not null,
    description text,
    type text not null,
    status public.workflow_status not null default 'initiated',
    current_stage text not null default 'initialization',
    priority public.priority_level not null default 'medium',
    progress integer not null default 0,
    agents_completed integer not null default 0,
    agents_total integer not null default 0,
    agents_planned integer,
    agents_created integer not null default 0,
    agents_failed integer not null default 0,
    agents_cancelled integer not null default 0,
    progress_updated_at timestamptz not null default now(),
    progress_frozen_at timestamptz,
    version integer not null default 1,
    trace_id text,
    input_data jsonb,
    created_by text not null default 'system',
    created_at timestamptz not null default clock_timestamp(),
    updated_at timestamptz not null default clock_timestamp(),
    completed_at timestamptz,
    parent_id uuid,
    parent_task_id uuid,
    constraint workflow_pkey primary key (id),
    constraint workflow_parent_id_fkey foreign key (parent_id) references public.workflow (id) on delete cascade
) with (fillfactor = 50);

create index workflow_created_at_id_idx on public.workflow (created_at, id);
create index workflow_status_created_at_id_idx on public.workflow (status, created_at, id);
create index workflow_type_created_at_id_idx on public.workflow (type, created_at, id);
create index workflow_priority_created_at_id_idx on public.workflow (priority, created_at, id);
create index workflow_name_id_idx on public.workflow (name collate "C", id);
create index workflow_trace_id_idx on public.workflow (trace_id);
create index workflow_parent_id_idx on public.workflow (parent_id) where parent_id is not null;
create index workflow_created_at_id_root_idx on public.workflow (created_at, id) where parent_id is null;

-- The plan of a search by the beginning of a name depends on a good estimate of how many names match.
alter table public.workflow alter column name set statistics 1000;

comment on table public.workflow is 'One run of a workflow, with the progress of its agents.';
comment on column public.workflow.type is 'Kind of workflow, for example app, feature or bugfix.';
comment on column public.workflow.current_stage is 'Name of the stage that the orchestrator is in.';
comment on column public.workflow.progress is
    'Maintained: agents_completed in percent of agents_total, 0 to 100; 100 only when all are, 0 only when none is.';
comment on column public.workflow.agents_completed is 'Maintained: tasks with status completed.';
comment on column public.workflow.agents_total is
    'Maintained: tasks that progress is measured against: created, or planned if that is more and the workflow not completed.';
comment on column public.workflow.agents_planned is
    'Number of tasks that the orchestrator says will come, 0 or more; null if unknown.';
comment on column public.workflow.agents_created is 'Maintained: all tasks, whatever their status.';
comment on column public.workflow.agents_failed is 'Maintained: tasks with status failed.';
comment on column public.workflow.agents_cancelled is 'Maintained: tasks with status cancelled.';
comment on column public.workflow.progress_updated_at is
    'Maintained: when progress, the total or a counter last moved.';
comment on column public.workflow.progress_frozen_at is
    'While set, counters, total and progress stay as they are (archived tasks, adopted history); null again recounts.';
comment on column public.workflow.version is 'Moves with status and stage, never with progress: for compare and swap.';
comment on column public.workflow.trace_id is 'Trace of the workflow in the tracing system.';
comment on column public.workflow.input_data is 'What the workflow was started with.';
comment on column public.workflow.parent_id is
    'The workflow that started this one, and whose deletion deletes it; null if none did.';
comment on column public.workflow.parent_task_id is
    'The task of the parent that started this one; null if none did; not checked.';

create table public.agent_task (
    id uuid not null default gen_random_uuid(),
    workflow_id uuid not null,
    external_id text,
    agent_type text not null,
    stage text,
    status public.task_status not null default 'pending',
    priority public.priority_level not null default 'medium',
    payload jsonb not null default '{}',
    result jsonb,
    trace_id text,
    span_id text,
    parent_span_id text,
    created_at timestamptz not null default clock_timestamp(),
    assigned_at timestamptz,
    started_at timestamptz,
    completed_at timestamptz,
    retry_count integer not null default 0,
    max_retries integer not null default 3,
    timeout_ms integer not null default 300000,
    ordinal bigint not null generated by default as identity,
    constraint agent_task_pkey primary key (id),
    constraint agent_task_workflow_id_fkey foreign key (workflow_id) references public.workflow (id) on delete cascade
);

-- completed_at stands last for the forecast (19), which reads the last completions only. A second index for it would
-- cost each completion as much as the counting.
create index agent_task_workflow_id_status_completed_at_idx on public.agent_task (workflow_id, status, completed_at);
create unique index agent_task_workflow_id_external_id_idx on public.agent_task (workflow_id, external_id)
    where external_id is not null;

comment on table public.agent_task is 'One task of a workflow, done by one agent.';
comment on column public.agent_task.external_id is 'The orchestrator''s own key, unique within the workflow; null if it has none.';
comment on column public.agent_task.agent_type is 'Kind of agent that does the task.';
comment on column public.agent_task.stage is 'Name of the stage that the task belongs to; null if it belongs to none.';
comment on column public.agent_task.payload is 'What the agent is given.';
comment on column public.agent_task.result is 'What the agent reported; null until then.';
comment on column public.agent_task.completed_at is 'When the task was settled: completed, failed or cancelled; null while open.';
comment on column public.agent_task.retry_count is 'How often the task was opened again after it had been settled.';
comment on column public.agent_task.max_retries is
    'How often the orchestrator may open the task again; only stored, nothing in the database enforces it.';
comment on column public.agent_task.timeout_ms is
    'Time that the agent has, in milliseconds; only stored, nothing in the database enforces it.';
comment on column public.agent_task.ordinal is 'Place in the order of creation, without ties; numbers may be missing.';

create table public.workflow_stage (
    id uuid not null default gen_random_uuid(),
    workflow_id uuid not null,
    name text not null,
    position integer not null,
    status public.stage_status not null default 'pending',
    started_at timestamptz,
    completed_at timestamptz,
    agent_id text,
    retry_count integer not null default 0,
    weight integer,
    constraint workflow_stage_pkey primary key (id),
    constraint workflow_stage_workflow_id_fkey foreign key (workflow_id) references public.workflow (id) on delete cascade,
    constraint workflow_stage_workflow_id_name_key unique (workflow_id, name)
);

comment on table public.workflow_stage is 'One stage of a workflow.';
comment on column public.workflow_stage.position is 'Place of the stage in the order of stages, from 0.';
comment on column public.workflow_stage.agent_id is
    'Agent in charge of the stage, as the orchestrator says; null if none is.';
comment on column public.workflow_stage.retry_count is 'How often the stage was started again, by a retry or by going back to it.';
comment on column public.workflow_stage.weight is
    'Share of the stage in the whole, relative to the other stages, as planned; null if the plan says none.';

create table public.workflow_event (
    id bigint not null generated always as identity,
    workflow_id uuid not null,
    event_type text not null,
    payload jsonb not null default '{}',
    occurred_at timestamptz not null default clock_timestamp(),
    trace_id text,
    constraint workflow_event_pkey primary key (id),
    constraint workflow_event_workflow_id_fkey foreign key (workflow_id) references public.workflow (id) on delete cascade
);

create index workflow_event_workflow_id_occurred_at_idx on public.workflow_event (workflow_id, occurred_at);

comment on table public.workflow_event is 'What happened to a workflow, in order of id.';
comment on column public.workflow_event.event_type is 'Kind of event.';
comment on column public.workflow_event.payload is 'Details of the event, by its kind.';

create table public.installed_object (
    kind text not null,
    name text not null,
    shipped_md5 text not null,
    installed_md5 text,
    server_major integer not null,
    constraint installed_object_pkey primary key (kind, name)
);

comment on table public.installed_object is
    'agent-progress: the functions, triggers and views that migrate made, so that check can name what differs.';
comment on column public.installed_object.shipped_md5 is 'MD5 of the statements that made the object.';
comment on column public.installed_object.installed_md5 is 'MD5 of its definition as PostgreSQL prints it; null for comments.';
comment on column public.installed_object.server_major is
    'Major version of the server then: each one prints definitions in its own way.';
