-- depends: 0006_agent_progress_repair
-- Transitions, with those that are allowed.

create table if not exists public.workflow_transition (
    from_status public.workflow_status not null,
    to_status public.workflow_status not null,
    constraint workflow_transition_pkey primary key (from_status, to_status)
);

comment on table public.workflow_transition is 'Allowed changes of a workflow''s status; a row more or less changes the rule.';
comment on column public.workflow_transition.from_status is 'Status that the workflow has.';
comment on column public.workflow_transition.to_status is 'Status that it may get.';

insert into public.workflow_transition (from_status, to_status)
values
    ('initiated', 'running'),
    ('initiated', 'paused'),
    ('initiated', 'completed'),
    ('initiated', 'failed'),
    ('initiated', 'cancelled'),
    ('running', 'paused'),
    ('running', 'completed'),
    ('running', 'failed'),
    ('running', 'cancelled'),
    ('paused', 'running'),
    ('paused', 'completed'),
    ('paused', 'failed'),
    ('paused', 'cancelled'),
    ('failed', 'running'),
    ('cancelled', 'running')
on conflict do nothing;

create or replace function public.guard_transition()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
declare
    settled constant boolean := new.status in ('completed', 'failed', 'cancelled');
    allowed text;
begin
    if tg_op = 'INSERT' then
        new.completed_at := case when settled then coalesce(new.completed_at, clock_timestamp()) end;
        return new;
    end if;

    if new.status = old.status and new.current_stage = old.current_stage then
        -- A row written back whole may be older than its read: it must not turn the clock back either.
        new.version := greatest(old.version, new.version);
        new.updated_at := greatest(old.updated_at, new.updated_at);
        new.completed_at := case when settled then coalesce(new.completed_at, old.completed_at) end;
        return new;
    end if;

    if new.version < old.version then
        raise exception using
            errcode = 'WP001',
            message = format(
                'workflow %s has moved on: it is %s, stage %s, version %s, and not as in version %s',
                old.id, old.status, old.current_stage, old.version, new.version
            ),
            hint = 'Read the workflow again and decide anew.';
    end if;

    if new.status <> old.status then
        if not exists (
            select
            from public.workflow_transition as t
            where t.from_status = old.status and t.to_status = new.status
        ) then
            select string_agg(t.to_status::text, ', ' order by t.to_status)
            into allowed
            from public.workflow_transition as t
            where t.from_status = old.status;
            raise exception using
                errcode = 'WP002',
                message = format(
                    'workflow %s cannot go from %s to %s; allowed from %s: %s',
                    old.id, old.status, new.status, old.status, coalesce(allowed, 'none')
                ),
                hint = 'The table workflow_transition says what is allowed.';
        end if;
        new.completed_at := case
            when settled and new.completed_at is distinct from old.completed_at then coalesce(new.completed_at, clock_timestamp())
            when settled then clock_timestamp()
        end;
    end if;

    new.version := greatest(old.version + 1, new.version);
    new.updated_at := clock_timestamp();
    return new;
end
$$;

comment on function public.guard_transition() is
    'Refuses transitions that are not allowed or come too late, moves version and updated_at, sets and clears completed_at.';

revoke execute on function public.guard_transition() from public;

-- A list of columns costs the statements that count nothing, where a WHEN clause would be compiled by each of them. So a
-- BEFORE trigger of a user's that sets the status in a statement which names neither column is not seen (README). Named
-- to fire after all others but the guard of the counters (04): what they make of a status is checked as well.
create or replace trigger zy_workflow_transition_guard
    before insert or update of status, current_stage on public.workflow
    for each row
    execute function public.guard_transition();

comment on trigger zy_workflow_transition_guard on public.workflow is
    'Lets a workflow go only where workflow_transition says; fires after all other BEFORE triggers but one.';
