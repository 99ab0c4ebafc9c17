            begin
                select this.ended or {workflow_ended}, this.closed or {workflow_ended} into ended, closed
                from {workflows} as workflow
                where {workflow_and:@sql = this.key_#};
            exception
                when data_exception then
                    raise warning using message = format('agent-progress: taken for not ended: %s', sqlerrm);
            end;
