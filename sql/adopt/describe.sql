                -- Read before it is written, as above.
                begin
                    if tg_op = 'INSERT' then
                        select {described} into the_description
                        from changed_task as task where {and:(@sql)::@type = this.key_#} and {outcome} is not null limit 1;
                    elsif tg_op = 'UPDATE' then
                        select {described} into the_description
                        from new_task as task where {and:(@sql)::@type = this.key_#} and {outcome} is not null limit 1;
                    end if;
                exception
                    when data_exception then
                        the_description := null;
                        raise warning using message = format('agent-progress: not described: %s', sqlerrm);
                end;
                update {schema}.workflow_counter as c set described = the_description where {c_is_this};
