-- The counters beside the application's table: one row for each of its workflows. A workflow that has not been counted yet
-- has no row, or one frozen at 'epoch' whose counters are null: what is added to null stays null.

create table if not exists public.workflow_counter (
    id uuid not null,
    status public.workflow_status not null default 'initiated',
    progress integer,
    agents_completed integer,
    agents_total integer,
    agents_planned integer,
    agents_created integer,
    agents_failed integer,
    agents_cancelled integer,
    progress_updated_at timestamptz not null default now(),
    progress_frozen_at timestamptz,
    constraint workflow_counter_pkey primary key (id)
) with (fillfactor = 50);

comment on table public.workflow_counter is 'Progress of each adopted workflow; maintained by triggers.';
comment on column public.workflow_counter.id is 'Key of the workflow.';
comment on column public.workflow_counter.status is 'completed while the workflow is: then the plan no longer counts.';
comment on column public.workflow_counter.progress is
    'Share of completed in all tasks, 0 to 100 percent; 100 only when all are completed, 0 only when none is.';
comment on column public.workflow_counter.agents_completed is 'Tasks that are completed.';
comment on column public.workflow_counter.agents_total is
    'Tasks that progress is measured against: created, or planned if that is more and the workflow not completed.';
comment on column public.workflow_counter.agents_created is 'All tasks, whatever their status.';
comment on column public.workflow_counter.agents_failed is 'Tasks that failed.';
comment on column public.workflow_counter.agents_cancelled is 'Tasks that were cancelled.';
comment on column public.workflow_counter.progress_updated_at is 'When progress, the total or a counter last moved.';
comment on column public.workflow_counter.agents_planned is
    'Number of tasks that will come, 0 or more; null if unknown. May be written here.';
comment on column public.workflow_counter.progress_frozen_at is
    'While set, the numbers stay as they are; null again recounts. ''epoch'' means: not counted yet.';
