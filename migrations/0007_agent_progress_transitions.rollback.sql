-- Refuses while changes of the shipped rows would be lost; `agent-progress rollback --drop-data` sets the parameter.
do $$
begin
    if
        to_regclass('public.workflow_transition') is not null
        and coalesce(current_setting('agent_progress.drop_data', true), '') <> 'on'
    then
        lock table public.workflow_transition in access exclusive mode;
        if exists (
            select from_status, to_status from public.workflow_transition
            except
            values
            ('initiated'::public.workflow_status, 'running'::public.workflow_status),
            ('initiated'::public.workflow_status, 'paused'::public.workflow_status),
            ('initiated'::public.workflow_status, 'completed'::public.workflow_status),
            ('initiated'::public.workflow_status, 'failed'::public.workflow_status),
            ('initiated'::public.workflow_status, 'cancelled'::public.workflow_status),
            ('running'::public.workflow_status, 'paused'::public.workflow_status),
            ('running'::public.workflow_status, 'completed'::public.workflow_status),
            ('running'::public.workflow_status, 'failed'::public.workflow_status),
            ('running'::public.workflow_status, 'cancelled'::public.workflow_status),
            ('paused'::public.workflow_status, 'running'::public.workflow_status),
            ('paused'::public.workflow_status, 'completed'::public.workflow_status),
            ('paused'::public.workflow_status, 'failed'::public.workflow_status),
            ('paused'::public.workflow_status, 'cancelled'::public.workflow_status),
            ('failed'::public.workflow_status, 'running'::public.workflow_status),
            ('cancelled'::public.workflow_status, 'running'::public.workflow_status)
        ) then
            raise exception using
                errcode = 'restrict_violation',
                message = 'table workflow_transition holds rows of your own, which would be lost',
                hint = 'Run agent-progress rollback --drop-data to drop them.';
        end if;
    end if;
end
$$;

drop trigger if exists zy_workflow_transition_guard on public.workflow;
drop function if exists public.guard_transition();
drop table if exists public.workflow_transition;
