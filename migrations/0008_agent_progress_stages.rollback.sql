-- Refuses while changes of the shipped rows would be lost; `agent-progress rollback --drop-data` sets the parameter.
do $$
begin
    if
        to_regclass('public.stage_definition') is not null
        and coalesce(current_setting('agent_progress.drop_data', true), '') <> 'on'
    then
        lock table public.stage_definition in access exclusive mode;
        if exists (
            select workflow_type, position, name, weight, agents from public.stage_definition
            except
            values
            ('app', 0, 'initialization', 5, null::integer),
            ('app', 1, 'scaffolding', 10, null::integer),
            ('app', 2, 'dependency_installation', 10, null::integer),
            ('app', 3, 'validation', 15, null::integer),
            ('app', 4, 'e2e_testing', 20, null::integer),
            ('app', 5, 'integration', 15, null::integer),
            ('app', 6, 'deployment', 15, null::integer),
            ('app', 7, 'monitoring', 10, null::integer),
            ('feature', 0, 'initialization', 10, null::integer),
            ('feature', 1, 'scaffolding', 20, null::integer),
            ('feature', 2, 'dependency_installation', 15, null::integer),
            ('feature', 3, 'validation', 25, null::integer),
            ('feature', 4, 'e2e_testing', 30, null::integer),
            ('bugfix', 0, 'initialization', 20, null::integer),
            ('bugfix', 1, 'validation', 40, null::integer),
            ('bugfix', 2, 'e2e_testing', 40, null::integer)
        ) then
            raise exception using
                errcode = 'restrict_violation',
                message = 'table stage_definition holds rows of your own, which would be lost',
                hint = 'Run agent-progress rollback --drop-data to drop them.';
        end if;
    end if;
end
$$;

drop trigger if exists workflow_stages on public.workflow;
drop function if exists public.follow_stages();
drop function if exists public.plan_stages(public.workflow);
drop table if exists public.stage_definition;
