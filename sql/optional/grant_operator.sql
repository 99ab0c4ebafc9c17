-- What an orchestrator, and whoever is on call, may beside reading (grant_reader.sql): create, move, archive and delete
-- workflows, plan their stages, add, change and move their tasks, and repair. Not: empty a table, edit the rules
-- (workflow_transition, stage_definition), or change the schema; these remain with its owner.
-- By hand, after grant_reader.sql: psql -1 -v role=NAME -f sql/optional/grant_operator.sql

grant insert, update, delete on
    public.workflow,
    public.agent_task,
    public.workflow_stage,
    public.workflow_event
to :"role";

grant select on public.workflow_transition to :"role";

grant execute on function
    public.create_workflow(
        text, text, text, public.workflow_status, text, public.priority_level, integer, text, jsonb, text, uuid
    ),
    public.add_tasks(uuid, jsonb),
    public.report_task(uuid, uuid, public.task_status, jsonb, boolean),
    public.report_tasks(uuid, jsonb),
    public.transition_workflow(uuid, public.workflow_status, text, integer),
    public.advance_workflow(uuid, integer),
    public.plan_stages(public.workflow),
    public.repair_progress(uuid),
    public.archive_workflows(interval, public.workflow_status[], integer)
to :"role";
