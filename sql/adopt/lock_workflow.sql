            -- With a plan, what is published depends on two rows: the second one is locked before it is read.
            perform from {workflows} as workflow where {workflow_and:@sql = this.key_#} for no key update;
            begin
                perform {publish_differs} from {workflows} as workflow where {workflow_and:@sql = this.key_#};
            exception
                when data_exception then
                    raise warning using message = format('agent-progress: not published: %s', sqlerrm);
                    exit publishing;
            end;
