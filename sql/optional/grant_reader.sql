-- What a reader may, the dashboard for one: read all that list, show, watch, check and serve show, and write nothing.
-- By hand: psql -1 -v role=NAME -f sql/optional/grant_reader.sql

grant usage on schema public to :"role";

grant select on
    public.workflow,
    public.agent_task,
    public.workflow_stage,
    public.workflow_event,
    public.stage_definition,
    public.installed_object,
    public.workflow_progress,
    public.workflow_progress_calculated,
    public.workflow_progress_drift,
    public.workflow_tree,
    public.workflow_tree_progress,
    public.workflow_stage_progress,
    public.workflow_stage_agents,
    public.workflow_timeline,
    public.workflow_forecast,
    public.workflow_burnup,
    public.vocabulary,
    public.workflow_trend,
    public.task_trend
to :"role";

grant execute on function
    public.progress_percentage(bigint, bigint),
    public.progress_total(public.workflow_status, bigint, bigint)
to :"role";
