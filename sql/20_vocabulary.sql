-- What workflows and tasks are called where people read of them: here each task is done by an agent. The schema of
-- adopted tables has the same view, with the words of its application.

create or replace view public.vocabulary
with (security_invoker = true)
as
select
    'workflow'::text as workflow_noun,
    'workflows'::text as workflow_nouns,
    'agent'::text as task_noun,
    'agents'::text as task_nouns;

comment on view public.vocabulary is 'What workflows and tasks are called where people read of them; one row.';
comment on column public.vocabulary.workflow_noun is 'One workflow.';
comment on column public.vocabulary.workflow_nouns is 'Several workflows.';
comment on column public.vocabulary.task_noun is 'One task.';
comment on column public.vocabulary.task_nouns is 'Several tasks.';
