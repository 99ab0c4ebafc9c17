-- The rules go to every node whole; a workflow and all that is of it go to one node.

-- One connection to each node: what a transaction did through one of several, the others would not see.
set local citus.multi_shard_modify_mode = 'sequential';
-- Citus calls triggers unsafe since they might reach for rows of other nodes; ours write to their own workflow alone.
set local citus.enable_unsafe_triggers = on;

select create_reference_table('public.workflow_transition');
select create_reference_table('public.stage_definition');
select create_distributed_table('public.workflow', 'id');
select create_distributed_table('public.agent_task', 'workflow_id', colocate_with => 'public.workflow');
select create_distributed_table('public.workflow_stage', 'workflow_id', colocate_with => 'public.workflow');
select create_distributed_table('public.workflow_event', 'workflow_id', colocate_with => 'public.workflow');

-- Functions of triggers, and of views, went along. These are called by them, or by whoever is connected to a worker.
select create_distributed_function('public.plan_stages(public.workflow)');
select create_distributed_function('public.transition_workflow(uuid, public.workflow_status, text, integer)');
select create_distributed_function('public.advance_workflow(uuid, integer)');
select create_distributed_function('public.repair_progress(uuid)');

-- The rows as they were before, which nobody sees any more.
select truncate_local_data_after_distributing_table('public.workflow');
select truncate_local_data_after_distributing_table('public.workflow_transition');
select truncate_local_data_after_distributing_table('public.stage_definition');
