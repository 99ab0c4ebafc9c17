-- The counters in the application's own table, as nullable columns: added at once, whatever its size. Rows that are there
-- already, or come before the triggers do, are frozen at 'epoch', which means: not counted yet.

alter table public.workflow
    add column if not exists their_progress integer,
    add column if not exists agents_completed integer,
    add column if not exists agents_total integer,
    add column if not exists agents_planned integer,
    add column if not exists agents_created integer,
    add column if not exists agents_failed integer,
    add column if not exists agents_cancelled integer,
    add column if not exists progress_updated_at timestamptz,
    add column if not exists progress_frozen_at timestamptz default 'epoch';

alter table public.workflow
    alter column progress_frozen_at drop default;

comment on column public.workflow.agents_completed is 'agent-progress: tasks that are completed.';
comment on column public.workflow.agents_total is
    'agent-progress: tasks that progress is measured against: created, or planned if that is more.';
comment on column public.workflow.agents_planned is
    'agent-progress: number of tasks that will come, 0 or more; null if unknown. May be written.';
comment on column public.workflow.agents_created is 'agent-progress: all tasks, whatever their status.';
comment on column public.workflow.agents_failed is 'agent-progress: tasks that failed.';
comment on column public.workflow.agents_cancelled is 'agent-progress: tasks that were cancelled.';
comment on column public.workflow.progress_updated_at is
    'agent-progress: when progress, the total or a counter last moved.';
comment on column public.workflow.progress_frozen_at is
    'agent-progress: while set, the numbers stay as they are; null again recounts. ''epoch'' means: not counted yet.';
