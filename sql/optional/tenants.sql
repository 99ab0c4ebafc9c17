-- A worked example, to be changed at will: one database for several tenants, each with a role of its own that sees and
-- changes its own workflows only. Views, helpers, commands and the service show what their role may see; counting runs with
-- the rights of the owner, and misses nothing. Stages and events have policies too, or the timeline would tell of them.

alter table public.workflow add column tenant name not null default current_user;
create index workflow_tenant_created_at_id_idx on public.workflow (tenant, created_at, id);

create policy tenant on public.workflow using (tenant = current_user);
create policy tenant on public.agent_task
    using (exists (select from public.workflow as w where w.id = agent_task.workflow_id));
create policy tenant on public.workflow_stage
    using (exists (select from public.workflow as w where w.id = workflow_stage.workflow_id));
create policy tenant on public.workflow_event
    using (exists (select from public.workflow as w where w.id = workflow_event.workflow_id));

alter table public.workflow enable row level security;
alter table public.agent_task enable row level security;
alter table public.workflow_stage enable row level security;
alter table public.workflow_event enable row level security;
