-- The back-fill: leaves finished history alone that says 100 percent, though none of its tasks was ever reported.

update {schema}.workflow_counter as c
set frozen_progress = 100
from {workflows} as workflow
where
    {workflow_and:@sql = c.key_#}
    and c.agents_created > 0
    and c.agents_completed = 0
    and c.agents_failed = 0
    and c.agents_cancelled = 0
    and {workflow_completed}
    and {published} >= 100
