    update {workflows} as workflow
    set {publish_counter_set}
    from {schema}.workflow_counter as c
    where
        {workflow_and:@sql = c.key_#}
        and c.kept_by = pg_current_xact_id()
        and c.agents_created is not null
        and {publish_counter_differs};
