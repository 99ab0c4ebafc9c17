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
