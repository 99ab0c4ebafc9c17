        -- Finished work stays finished: where no task is open any more, or the workflow has ended, deleted tasks that were
        -- completed or cancelled stay counted. Failed ones, which may be tried again, stay where the workflow says that it
        -- has ended. Open tasks that the statement deleted as well are gone first.
        if tg_op = 'DELETE' then
            select
                c.agents_created + the_created = c.agents_completed + the_completed
                    + c.agents_failed + the_failed + c.agents_cancelled + the_cancelled
            into ended
            from {schema}.workflow_counter as c
            where {c_is_this}
            for no key update;
            closed := ended and {keep_failed};
            {ended}
            if ended then
                left_failed := case when closed then the_failed else 0 end;
                update {schema}.workflow_counter as c
                set
                    removed_completed = c.removed_completed - the_completed,
                    removed_failed = c.removed_failed - left_failed,
                    removed_cancelled = c.removed_cancelled - the_cancelled,
                    kept_completed
                        = case when c.kept_by = pg_current_xact_id() then c.kept_completed else 0 end - the_completed,
                    kept_failed = case when c.kept_by = pg_current_xact_id() then c.kept_failed else 0 end - left_failed,
                    kept_cancelled
                        = case when c.kept_by = pg_current_xact_id() then c.kept_cancelled else 0 end - the_cancelled,
                    kept_by = pg_current_xact_id()
                where {c_is_this};
                the_created := the_created - the_completed - left_failed - the_cancelled;
                the_completed := 0;
                the_failed := the_failed - left_failed;
                the_cancelled := 0;
            end if;
        elsif tg_op = 'INSERT' then
            -- Deleted and inserted anew is tried again: the transaction takes back what it kept.
            update {schema}.workflow_counter as c
            set
                agents_created = c.agents_created - c.kept_completed - c.kept_failed - c.kept_cancelled,
                agents_completed = c.agents_completed - c.kept_completed,
                agents_failed = c.agents_failed - c.kept_failed,
                agents_cancelled = c.agents_cancelled - c.kept_cancelled,
                removed_completed = c.removed_completed - c.kept_completed,
                removed_failed = c.removed_failed - c.kept_failed,
                removed_cancelled = c.removed_cancelled - c.kept_cancelled,
                kept_completed = 0,
                kept_failed = 0,
                kept_cancelled = 0
            where
                {c_is_this}
                and c.kept_by = pg_current_xact_id()
                and c.kept_completed + c.kept_failed + c.kept_cancelled > 0;
        end if;
