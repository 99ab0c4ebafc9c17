-- Refuses while the rules are not as they were shipped; `agent-progress rollback --drop-data` sets the parameter.
do $$
begin
    if
        to_regclass('public.workflow_transition') is not null
        and to_regclass('public.stage_definition') is not null
        and coalesce(current_setting('agent_progress.drop_data', true), '') <> 'on'
    then
        lock table public.workflow_transition, public.stage_definition in access exclusive mode;
        if
            (select md5(string_agg(t::text, ';' order by t.from_status, t.to_status)) from public.workflow_transition as t)
            is distinct from '0808a26aa22de3305641356b8f9ada93'
            or (select md5(string_agg(d::text, ';' order by d.workflow_type, d.position)) from public.stage_definition as d)
            is distinct from '91de460be438f59e3481750231777915'
        then
            raise exception using
                errcode = 'restrict_violation',
                message = 'tables workflow_transition and stage_definition hold rows of your own, which would be lost',
                hint = 'Run agent-progress rollback --drop-data to drop them.';
        end if;
    end if;
end
$$;

drop table if exists public.stage_definition;
drop table if exists public.workflow_transition;
