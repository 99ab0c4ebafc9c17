-- Ends only if all is right.

do $$
begin
    if (select count(*) from public.workflow_progress_drift) > 0 then
        raise object_not_in_prerequisite_state using
            message = 'stored and counted progress differ after the move: nothing was changed',
            hint = 'This is a fault of agent-progress or of Citus; please tell us.';
    end if;
end
$$;

-- Views of yours hold these fast: then nothing is changed either.
drop table agent_progress_distributed.workflow_event;
drop table agent_progress_distributed.workflow_stage;
drop table agent_progress_distributed.agent_task;
drop table agent_progress_distributed.workflow;
drop table agent_progress_distributed.workflow_transition;
drop table agent_progress_distributed.stage_definition;
drop schema agent_progress_distributed;
