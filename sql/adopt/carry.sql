    -- Where all tasks of a key move to another, those that were removed go along. The two transition tables are in one
    -- order, that of the rows changed.
    if tg_op = 'UPDATE' and single is not true then
        for pair in
            select distinct {list:o.key_# as old_#}, {list:n.key_# as new_#}
            from (select o.*, row_number() over () as place from {old_tasks} as o) as o
            join (select n.*, row_number() over () as place from {new_tasks} as n) as n on n.place = o.place
            where not ({n_is_o}) and o.outcome is not null and n.outcome is not null
            order by {list:old_#}, {list:new_#}
        loop
            delete from {schema}.workflow_counter as c
            where
                {and:c.key_# = pair.old_#}
                and c.agents_created = c.removed_completed + c.removed_failed + c.removed_cancelled
                and c.agents_created > 0
            returning c.removed_completed, c.removed_failed, c.removed_cancelled
            into the_completed, the_failed, the_cancelled;
            continue when not found;
            {each:this.key_# := pair.new_#;}
            update {schema}.workflow_counter as c
            set
                agents_created = c.agents_created + the_completed + the_failed + the_cancelled,
                agents_completed = c.agents_completed + the_completed,
                agents_failed = c.agents_failed + the_failed,
                agents_cancelled = c.agents_cancelled + the_cancelled,
                removed_completed = c.removed_completed + the_completed,
                removed_failed = c.removed_failed + the_failed,
                removed_cancelled = c.removed_cancelled + the_cancelled
            where {c_is_this}
            returning c.agents_created, c.agents_completed, c.frozen_progress
            into now_created, now_completed, now_frozen;
            {publish}
        end loop;
    end if;
