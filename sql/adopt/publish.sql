        -- The counter first, then, in a later statement, the row of the workflow.
        if now_created is not null then
            {lock_workflow}
            update {workflows} as workflow
            set {publish_set}
            where {workflow_is_this} and {publish_differs};
        end if;
