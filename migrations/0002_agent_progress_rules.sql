-- depends: 0001_agent_progress_tables
-- Rules, with the rows that are shipped; a row that a user changed stays.

create table if not exists public.workflow_transition (
    from_status public.workflow_status not null,
    to_status public.workflow_status not null,
    constraint workflow_transition_pkey primary key (from_status, to_status)
);

insert into public.workflow_transition (from_status, to_status)
values
    ('initiated', 'running'),
    ('initiated', 'paused'),
    ('initiated', 'completed'),
    ('initiated', 'failed'),
    ('initiated', 'cancelled'),
    ('running', 'paused'),
    ('running', 'completed'),
    ('running', 'failed'),
    ('running', 'cancelled'),
    ('paused', 'running'),
    ('paused', 'completed'),
    ('paused', 'failed'),
    ('paused', 'cancelled'),
    ('failed', 'running'),
    ('cancelled', 'running')
on conflict do nothing;

create table if not exists public.stage_definition (
    workflow_type text not null,
    position integer not null,
    name text not null,
    weight integer not null default 1,
    agents integer,
    constraint stage_definition_pkey primary key (workflow_type, name),
    constraint stage_definition_workflow_type_position_key unique (workflow_type, position),
    constraint stage_definition_weight_check check (weight > 0),
    constraint stage_definition_agents_check check (agents >= 0)
);

insert into public.stage_definition (workflow_type, position, name, weight)
values
    ('app', 0, 'initialization', 5),
    ('app', 1, 'scaffolding', 10),
    ('app', 2, 'dependency_installation', 10),
    ('app', 3, 'validation', 15),
    ('app', 4, 'e2e_testing', 20),
    ('app', 5, 'integration', 15),
    ('app', 6, 'deployment', 15),
    ('app', 7, 'monitoring', 10),
    ('feature', 0, 'initialization', 10),
    ('feature', 1, 'scaffolding', 20),
    ('feature', 2, 'dependency_installation', 15),
    ('feature', 3, 'validation', 25),
    ('feature', 4, 'e2e_testing', 30),
    ('bugfix', 0, 'initialization', 20),
    ('bugfix', 1, 'validation', 40),
    ('bugfix', 2, 'e2e_testing', 40)
on conflict do nothing;
