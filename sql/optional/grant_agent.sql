-- What an agent may: add tasks and report on them, by functions or plain SQL, and read tasks and progress. It moves no
-- task to another workflow, takes none away and changes neither its payload nor its key; and on workflow it may write
-- nothing: numbers move because its tasks do, with the rights of the schema's owner. What a workflow was started with
-- (input_data) is not for it either.
-- By hand: psql -1 -v role=NAME -f sql/optional/grant_agent.sql

grant usage on schema public to :"role";

grant select on
    public.agent_task,
    public.workflow_progress,
    public.workflow_tree,
    public.workflow_tree_progress,
    public.workflow_progress_calculated,
    public.workflow_progress_drift
to :"role";

grant select (
    id,
    name,
    description,
    type,
    status,
    current_stage,
    priority,
    progress,
    agents_completed,
    agents_total,
    agents_planned,
    agents_created,
    agents_failed,
    agents_cancelled,
    progress_updated_at,
    progress_frozen_at,
    trace_id,
    created_at,
    updated_at,
    completed_at,
    parent_id,
    parent_task_id
) on public.workflow to :"role";

grant insert on public.agent_task to :"role";

grant update (
    status,
    result,
    trace_id,
    span_id,
    parent_span_id,
    assigned_at,
    started_at,
    completed_at,
    retry_count
) on public.agent_task to :"role";

grant execute on function
    public.add_tasks(uuid, jsonb),
    public.report_task(uuid, uuid, public.task_status, jsonb, boolean),
    public.report_tasks(uuid, jsonb),
    public.progress_percentage(bigint, bigint),
    public.progress_total(public.workflow_status, bigint, bigint)
to :"role";
