create or replace trigger {workflow_insert_trigger}
    after insert on {table}
    referencing new table as new_workflow
    for each statement
    execute function {schema}.publish_inserted();

comment on trigger {workflow_insert_trigger} on {table} is 'agent-progress: publishes the progress of new workflows.';
