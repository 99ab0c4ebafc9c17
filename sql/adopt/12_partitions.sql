-- A MERGE that inserts before it updates shows the update trigger of a partitioned table the row inserted last, once for
-- each updated one (PostgreSQL 15 to 18). Where there is a BEFORE INSERT row trigger, it does not. This one never fires.

create or replace trigger "{prefix}_merge"
    before insert on {tasks}
    for each row
    when (false)
    execute function {schema}.maintain_progress();

comment on trigger "{prefix}_merge" on {tasks} is 'agent-progress: never fires; lets MERGE show updated rows as they are.';
