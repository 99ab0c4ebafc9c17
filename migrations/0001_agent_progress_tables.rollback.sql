-- Refuses while rows would be lost; `agent-progress rollback --drop-data` sets the parameter.
do $$
begin
    if
        to_regclass('public.workflow') is not null
        and coalesce(current_setting('agent_progress.drop_data', true), '') <> 'on'
    then
        lock table public.workflow in access exclusive mode;
        if exists (select from public.workflow) then
            raise exception using
                errcode = 'restrict_violation',
                message = 'table workflow holds rows, which would be lost',
                hint = 'Run agent-progress rollback --drop-data to drop them.';
        end if;
    end if;
end
$$;

drop table if exists public.installed_object;
drop table if exists public.workflow_event;
drop table if exists public.workflow_stage;
drop table if exists public.agent_task;
drop table if exists public.workflow;
drop function if exists public.notify_progress(); -- of agent-progress notify on
drop type if exists public.priority_level;
drop type if exists public.stage_status;
drop type if exists public.task_status;
drop type if exists public.workflow_status;
