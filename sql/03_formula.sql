-- The percentage, and the total that it is a share of. No other file writes either formula.
-- Both functions are inlined into the statements that call them (a call would cost 5 us): hence a `return` body,
-- qualified names and no SET clause. A null argument, as of adopted tables that are not counted yet,
-- gives null.

create or replace function public.progress_percentage(completed bigint, total bigint)
returns integer
language sql
immutable
parallel safe
return case
    -- Exact at both ends: 0 only when none is completed, 100 only when all are.
    when least(completed, total) <= 0 then 0
    when completed >= total then 100
    -- Round half up: floor(100 * completed / total + 1/2), in integers.
    when completed < total then greatest(1, least(99, (200 * completed + total) / (2 * total)))
end;

comment on function public.progress_percentage(bigint, bigint) is
    'Share of completed in total in percent, 0 to 100, rounded half up; 100 only when all are completed, 0 only when none is.';

create or replace function public.progress_total(status public.workflow_status, created bigint, planned bigint)
returns bigint
language sql
immutable
parallel safe
return case
    -- A completed workflow expects no more tasks. Until then the plan counts, if it is more; greatest() ignores a null.
    when status = 'completed' then created
    when created is not null then greatest(created, planned)
end;

comment on function public.progress_total(public.workflow_status, bigint, bigint) is
    'Number of tasks that progress is measured against: the planned ones, if more than those created, until the workflow is completed.';
