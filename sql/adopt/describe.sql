                if tg_op = 'INSERT' then
                    update {schema}.workflow_counter as c
                    set described = (
                        select {described} from changed_task as task where {row_is_this} and {outcome} is not null limit 1
                    )
                    where {c_is_this};
                elsif tg_op = 'UPDATE' then
                    update {schema}.workflow_counter as c
                    set described = (
                        select {described} from new_task as task where {row_is_this} and {outcome} is not null limit 1
                    )
                    where {c_is_this};
                end if;
