-- How many workflows say something else than what was counted.

select count(*)
from {schema}.workflow_progress as p
join {schema}.read_workflows() as w on w.workflow_id = p.workflow_id
where w.published is distinct from p.progress
