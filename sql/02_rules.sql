-- Rules that a user may edit: the allowed changes of status, and the stages of each type of workflow.

create table public.workflow_transition (
    from_status public.workflow_status not null,
    to_status public.workflow_status not null,
    constraint workflow_transition_pkey primary key (from_status, to_status)
);

comment on table public.workflow_transition is 'Allowed changes of a workflow''s status, one a row; to be edited.';
comment on column public.workflow_transition.from_status is 'Status that the workflow has.';
comment on column public.workflow_transition.to_status is 'Status that it may get.';

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
    ('cancelled', 'running');

create table public.stage_definition (
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

comment on table public.stage_definition is 'Stages of a type of workflow, in order; to be edited.';
comment on column public.stage_definition.workflow_type is 'The type of workflow.';
comment on column public.stage_definition.position is 'Place of the stage in the order of stages, from 0.';
comment on column public.stage_definition.name is 'Name of the stage, as in workflow.current_stage and agent_task.stage.';
comment on column public.stage_definition.weight is 'Share of the stage in the whole, relative to the other stages; above 0.';
comment on column public.stage_definition.agents is
    'Number of tasks that the stage will have; where all stages name one, it fills workflow.agents_planned. Null if unknown.';

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
    ('bugfix', 2, 'e2e_testing', 40);
