-- Moving a workflow to another status or stage in one round trip. Each function returns the row as it will be
-- committed, with its new version: a caller need not read it again.

create or replace function public.transition_workflow(
    workflow_id uuid,
    status public.workflow_status,
    stage text default null,
    expected_version integer default null
)
returns public.workflow
language plpgsql
security invoker
set search_path = pg_catalog, pg_temp
set enable_seqscan = off -- as in 09
as $$
#variable_conflict use_variable
declare
    cancelled_at timestamptz;
    moved public.workflow;
begin
    if transition_workflow.status = 'cancelled' then
        -- Locked in the order in which agents lock: tasks before the workflow, and tasks by id, as report_tasks does.
        perform
        from public.agent_task as t
        where t.workflow_id = transition_workflow.workflow_id and t.status < 'completed'
        order by t.id
        for no key update;
        cancelled_at := clock_timestamp(); -- one time for all of them
        update public.agent_task as t
        set status = 'cancelled', completed_at = cancelled_at
        where t.workflow_id = transition_workflow.workflow_id and t.status < 'completed';
    end if;

    update public.workflow as w
    set
        status = transition_workflow.status,
        current_stage = coalesce(transition_workflow.stage, w.current_stage)
    where
        w.id = transition_workflow.workflow_id
        and (w.version = transition_workflow.expected_version or transition_workflow.expected_version is null);

    if not found then
        select w.* into moved from public.workflow as w where w.id = transition_workflow.workflow_id;
        if not found then
            raise no_data_found using message = format('workflow %s not found', transition_workflow.workflow_id);
        end if;
        raise exception using
            errcode = 'WP001',
            message = format(
                'workflow %s has moved on: it is %s, stage %s, version %s, and not version %s',
                moved.id, moved.status, moved.current_stage, moved.version, transition_workflow.expected_version
            ),
            hint = 'Read the workflow again and decide anew.';
    end if;

    -- Read again, not returned by the update: triggers after it may have filled in the plan.
    select w.* into moved from public.workflow as w where w.id = transition_workflow.workflow_id;
    return moved;
end
$$;

comment on function public.transition_workflow(uuid, public.workflow_status, text, integer) is
    'Moves a workflow to a status and stage, if it still has the expected version; cancelling cancels its open tasks. Returns the row as it is committed; SQLSTATE WP001: the version moved on, WP002: not allowed, P0002: no such workflow.';

create or replace function public.advance_workflow(workflow_id uuid, expected_version integer default null)
returns public.workflow
language plpgsql
security invoker
set search_path = pg_catalog, pg_temp
set enable_seqscan = off -- as in 09
as $$
#variable_conflict use_variable
declare
    current public.workflow;
    here record;
    next_stage text;
begin
    select w.* into current from public.workflow as w where w.id = advance_workflow.workflow_id for no key update;
    if not found then
        raise no_data_found using message = format('workflow %s not found', advance_workflow.workflow_id);
    end if;
    if current.version <> advance_workflow.expected_version then
        raise exception using
            errcode = 'WP001',
            message = format(
                'workflow %s has moved on: it is %s, stage %s, version %s, and not version %s',
                current.id, current.status, current.current_stage, current.version, advance_workflow.expected_version
            ),
            hint = 'Read the workflow again and decide anew.';
    end if;
    if current.status not in ('initiated', 'running') then
        raise exception using
            errcode = 'WP002',
            message = format('workflow %s is %s: only initiated and running ones advance', current.id, current.status),
            hint = 'Move it to running first.';
    end if;

    if not exists (select from public.workflow_stage as s where s.workflow_id = current.id) then
        perform public.plan_stages(current);
    end if;
    select s.position, s.name
    into here
    from public.workflow_stage as s
    where s.workflow_id = current.id and s.name = current.current_stage;
    -- From a stage that is not in the plan it goes to the first stage that was not begun yet.
    select s.name
    into next_stage
    from public.workflow_stage as s
    where
        s.workflow_id = current.id
        and case
            when here.name is not null then (s.position, s.name) > (here.position, here.name)
            else s.status = 'pending'
        end
    order by s.position, s.name
    limit 1;
    if next_stage is null and here.name is null then
        raise object_not_in_prerequisite_state using
            message = format(
                'workflow %s is in stage %s: it has no plan that would name the next', current.id, current.current_stage
            ),
            hint = 'The stages of a workflow stand in workflow_stage, those of its type in stage_definition.';
    end if;

    return public.transition_workflow(
        current.id,
        case when next_stage is null then 'completed' else 'running' end::public.workflow_status,
        next_stage,
        null::integer
    );
end
$$;

comment on function public.advance_workflow(uuid, integer) is
    'Moves a workflow to the next stage of its plan, and completes it after the last one. Returns and raises as transition_workflow does; SQLSTATE 55000: no plan.';
