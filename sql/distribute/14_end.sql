-- Views of yours hold these fast: then nothing is changed either.
drop table agent_progress_distributed.workflow_event;
drop table agent_progress_distributed.workflow_stage;
drop table agent_progress_distributed.agent_task;
drop table agent_progress_distributed.workflow;
drop table agent_progress_distributed.workflow_transition;
drop table agent_progress_distributed.stage_definition;
drop schema agent_progress_distributed;
