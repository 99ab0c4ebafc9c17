        -- The counter first, then, in a later statement, the row of the workflow.
        <<publishing>>
        declare
            percentage constant integer := {publish_percentage}; -- worked out once, for both clauses below
        begin
            exit publishing when now_created is null;
            {lock_workflow}
            update {workflows} as workflow
            set {publish_set}
            where {workflow_and:@sql = this.key_#} and {publish_differs};
        end;
