create or replace trigger "{prefix}_insert"
    after insert on {table}
    referencing new table as changed_task
    for each statement
    execute function {schema}.maintain_progress();

create or replace trigger "{prefix}_update"
    after update on {table}
    referencing old table as old_task new table as new_task
    for each statement
    execute function {schema}.maintain_progress();

create or replace trigger "{prefix}_delete"
    after delete on {table}
    referencing old table as changed_task
    for each statement
    execute function {schema}.maintain_progress();

create or replace trigger "{prefix}_truncate"
    after truncate on {table}
    for each statement
    execute function {schema}.maintain_progress();

comment on trigger "{prefix}_insert" on {table} is 'agent-progress: counts the tasks that a statement created.';
comment on trigger "{prefix}_update" on {table} is 'agent-progress: counts the tasks that a statement settled, opened again or moved.';
comment on trigger "{prefix}_delete" on {table} is 'agent-progress: takes the tasks that a statement deleted from the counts.';
comment on trigger "{prefix}_truncate" on {table} is 'agent-progress: counts afresh after a table of tasks was emptied.';
