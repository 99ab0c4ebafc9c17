-- BEFORE triggers fire in the order of their names; this one has the last word. A row trigger: partitions take it over.

create or replace trigger "zz_{prefix}_guard"
    before insert or update on {workflows}
    for each row
    execute function {schema}.guard_published();

comment on trigger "zz_{prefix}_guard" on {workflows} is 'agent-progress: lets published columns say what was counted, whoever writes there.';
