create or replace trigger "{prefix}_workflow_delete"
    after delete on {table}
    referencing old table as old_workflow
    for each statement
    execute function {schema}.follow_deletions();

create or replace trigger "{prefix}_workflow_truncate"
    after truncate on {table}
    for each statement
    execute function {schema}.follow_deletions();

comment on trigger "{prefix}_workflow_delete" on {table} is 'agent-progress: lets deleted workflows take their counters along.';
comment on trigger "{prefix}_workflow_truncate" on {table} is 'agent-progress: lets workflows that are gone take their counters along.';
