-- With its triggers: of agent_task, and of its partitions.
drop function if exists public.maintain_progress() cascade;
