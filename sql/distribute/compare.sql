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
