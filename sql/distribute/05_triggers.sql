-- Counting goes on, where the tasks are. TRUNCATE alone cannot be counted there: it would ask a shard about the others.

alter table public.agent_task
    add constraint agent_task_workflow_id_fkey foreign key (workflow_id) references public.workflow (id) on delete cascade;
alter table public.workflow_stage
    add constraint workflow_stage_workflow_id_fkey foreign key (workflow_id) references public.workflow (id) on delete cascade;
alter table public.workflow_event
    add constraint workflow_event_workflow_id_fkey foreign key (workflow_id) references public.workflow (id) on delete cascade;

create function public.refuse_truncate()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise feature_not_supported using
        message = 'a distributed agent_task cannot be truncated: its tasks would stay counted',
        hint = 'Delete from it instead, or from workflow.';
end
$$;

comment on function public.refuse_truncate() is 'Refuses TRUNCATE of the distributed agent_task.';

revoke execute on function public.refuse_truncate() from public;

drop trigger agent_task_progress_truncate on public.agent_task;

create trigger agent_task_progress_truncate
    before truncate on public.agent_task
    for each statement
    execute function public.refuse_truncate();

comment on trigger agent_task_progress_truncate on public.agent_task is
    'Refuses to empty the table, which could not be counted while it is distributed.';

alter table public.workflow enable trigger user;
alter table public.agent_task enable trigger user;
