-- The back-fill: lets missing rows mean no tasks from now on. Waits for all who made one that is not counted; nothing where
-- the tasks were truncated since they were counted.

update {schema}.counting as c
set live = true
from {schema}.workflow_counted_since as s
where s.truncated = c.truncated
