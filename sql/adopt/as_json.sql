-- For conditions and expressions on text that should be JSON: a cast would raise an error where one row is none, and so
-- hide all others. (pg_input_is_valid() came with PostgreSQL 16.)

create or replace function {schema}.as_json(value anyelement)
returns jsonb
language plpgsql
immutable
strict
set search_path = pg_catalog, pg_temp
as $agent_progress$
begin
    return value::text::jsonb;
exception
    when data_exception or program_limit_exceeded then
        return null;
end
$agent_progress$;

comment on function {schema}.as_json(anyelement) is 'A text as JSON; null where it is none.';
