-- Which changes of status are allowed, for every writer. A change of status or stage raises the version: orchestrators
-- compare and swap on it, and a row written back with an older version cannot revert what happened since. Counting (04)
-- writes none of these columns and does not fire this trigger: a swap never fails because progress moved.
-- SQLSTATE WP001: the version moved on; read the row again. WP002: this transition is not allowed.

create or replace function public.guard_transition()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set row_security = off
as $$
#variable_conflict use_variable
declare
    ended constant boolean := new.status in ('completed', 'failed', 'cancelled');
    allowed text;
begin
    if tg_op = 'INSERT' then
        new.completed_at := case when ended then coalesce(new.completed_at, clock_timestamp()) end;
        -- A workflow begins in the first stage of its type where it names none, or has only the default of the column,
        -- 'initialization', and its type has no such stage. One that is restored keeps its stage once it has moved.
        if
            new.version = 1
            and (
                new.current_stage is null
                or (
                    new.current_stage = 'initialization'
                    and not exists (
                        select
                        from public.stage_definition as d
                        where d.workflow_type = new.type and d.name = 'initialization'
                    )
                )
            )
        then
            select d.name
            into new.current_stage
            from public.stage_definition as d
            where d.workflow_type = new.type
            order by d.position
            limit 1;
        end if;
        new.current_stage := coalesce(new.current_stage, 'initialization');
        return new;
    end if;

    if new.status = old.status and new.current_stage = old.current_stage then
        -- A row written back whole may be older than what is stored: it must not set version or updated_at back. ORMs
        -- that count versions themselves write the next one, which is taken. At the end of its range it stays.
        if new.version <> least(old.version, 2147483646) + 1 then
            new.version := old.version;
        end if;
        new.updated_at := greatest(old.updated_at, new.updated_at);
        new.completed_at := case when ended then coalesce(new.completed_at, old.completed_at) end;
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
        -- A time that the writer gives is kept; what the update leaves unchanged is the time of an earlier end.
        new.completed_at := case
            when ended then coalesce(nullif(new.completed_at, old.completed_at), clock_timestamp())
        end;
    end if;

    new.version := least(old.version, 2147483646) + 1;
    new.updated_at := clock_timestamp();
    return new;
end
$$;

comment on function public.guard_transition() is
    'Refuses transitions that are not allowed or name an old version; sets version, updated_at and completed_at.';

revoke execute on function public.guard_transition() from public;

-- A list of columns costs nothing in the statements that count; a WHEN clause would be compiled by each of them. The
-- price: where a user's BEFORE trigger sets the status in a statement that names none of these columns, nothing is
-- checked. By its name this trigger fires after all others but the guard (05): it checks the status that they leave.
create or replace trigger zy_workflow_transition_guard
    before insert or update of status, current_stage, version on public.workflow
    for each row
    execute function public.guard_transition();

comment on trigger zy_workflow_transition_guard on public.workflow is
    'Lets a workflow go only where workflow_transition says; fires after all other BEFORE triggers but one.';
