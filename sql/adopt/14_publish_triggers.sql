create or replace trigger "{prefix}_workflow_insert"
    after insert on {table}
    referencing new table as new_workflow
    for each statement
    execute function {schema}.publish_inserted();

comment on trigger "{prefix}_workflow_insert" on {table} is 'agent-progress: publishes the progress of new workflows.';
