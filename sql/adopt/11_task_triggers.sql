create or replace trigger {insert_trigger}
    after insert on {table}
    referencing new table as changed_task
    for each statement
    execute function {schema}.maintain_progress();

create or replace trigger {update_trigger}
    after update on {table}
    referencing old table as old_task new table as new_task
    for each statement
    execute function {schema}.maintain_progress();

create or replace trigger {delete_trigger}
    after delete on {table}
    referencing old table as changed_task
    for each statement
    execute function {schema}.maintain_progress();

create or replace trigger {truncate_trigger}
    after truncate on {table}
    for each statement
    execute function {schema}.maintain_progress();

comment on trigger {insert_trigger} on {table} is 'agent-progress: counts the tasks that a statement created.';
comment on trigger {update_trigger} on {table} is 'agent-progress: counts the tasks that a statement settled, opened again or moved.';
comment on trigger {delete_trigger} on {table} is 'agent-progress: takes the tasks that a statement deleted from the counts.';
comment on trigger {truncate_trigger} on {table} is 'agent-progress: counts afresh after a table of tasks was emptied.';
