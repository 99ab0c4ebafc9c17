create or replace trigger {workflow_delete_trigger}
    after delete on {table}
    referencing old table as old_workflow
    for each statement
    execute function {schema}.follow_deletions();

create or replace trigger {workflow_truncate_trigger}
    after truncate on {table}
    for each statement
    execute function {schema}.follow_deletions();

comment on trigger {workflow_delete_trigger} on {table} is 'agent-progress: lets deleted workflows take their counters along.';
comment on trigger {workflow_truncate_trigger} on {table} is 'agent-progress: lets workflows that are gone take their counters along.';
