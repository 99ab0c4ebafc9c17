-- depends: 0008_agent_progress_stages
-- Functions that move a workflow.

create or replace function public.transition_workflow(
    workflow_id uuid,
    status public.workflow_status,
    stage text default null,
    expected_version integer default null
)
returns public.workflow
language plpgsql
security invoker
set search_path = ''
as $$
declare
    moved public.workflow;
begin
    if transition_workflow.status = 'cancelled' then
        -- Tasks first, then the workflow: the order in which agents lock.
        update public.agent_task as t
        set status = 'cancelled', completed_at = now()
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
set search_path = ''
as $$
declare
    current public.workflow;
    here integer;
    next_stage text;
begin
    select w.* into current from public.workflow as w where w.id = advance_workflow.workflow_id for no key update;
    if not found then
        raise no_data_found using message = format('workflow %s not found', advance_workflow.workflow_id);
    end if;
    if current.status not in ('initiated', 'running') then
        raise exception using
            errcode = 'WP002',
            message = format('workflow %s is %s: only initiated and running ones advance', current.id, current.status);
    end if;

    if not exists (select from public.workflow_stage as s where s.workflow_id = current.id) then
        perform public.plan_stages(current.id);
    end if;
    select s.position
    into here
    from public.workflow_stage as s
    where s.workflow_id = current.id and s.name = current.current_stage;
    if not found then
        raise object_not_in_prerequisite_state using
            message = format('workflow %s is in stage %s, which is not in its plan', current.id, current.current_stage),
            hint = 'Its stages stand in workflow_stage, those of its type in stage_definition.';
    end if;
    select s.name
    into next_stage
    from public.workflow_stage as s
    where s.workflow_id = current.id and s.position > here
    order by s.position
    limit 1;

    return public.transition_workflow(
        current.id,
        case when next_stage is null then 'completed' else 'running' end::public.workflow_status,
        next_stage,
        coalesce(advance_workflow.expected_version, current.version)
    );
end
$$;

comment on function public.advance_workflow(uuid, integer) is
    'Moves a workflow to the next stage of its plan, and completes it after the last one. Returns and raises as transition_workflow does.';
