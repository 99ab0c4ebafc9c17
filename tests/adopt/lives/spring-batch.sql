create sequence id;
create table batch_job_execution (
    job_execution_id bigint primary key default nextval('id'), job_instance_id bigint not null default 10,
    create_time timestamp not null default now(), start_time timestamp, end_time timestamp, status varchar(10)
);
create table batch_step_execution (
    step_execution_id bigint primary key default nextval('id'), step_name varchar(100) not null default 'some',
    job_execution_id bigint not null references batch_job_execution (job_execution_id),
    create_time timestamp not null default now(), start_time timestamp, end_time timestamp,
    status varchar(10), exit_message varchar(2500)
);
--> a job starts, and its first step
insert into batch_job_execution (job_execution_id, status) values (101, 'STARTED');
insert into batch_step_execution (step_name, job_execution_id, status, start_time)
values ('read', 101, 'STARTED', now());
--= 101: 0 of 1
--> it completes, and the next is split into partitions; one fails, one is stopped
update batch_step_execution set status = 'COMPLETED', end_time = now();
insert into batch_step_execution (step_name, job_execution_id, status)
select 'write:partition' || i, 101, 'STARTING' from generate_series(1, 3) as i;
update batch_step_execution set status = 'COMPLETED' where step_name = 'write:partition1';
update batch_step_execution set status = 'FAILED', end_time = now(),
    exit_message = E'java.lang.Error: no\n\tat A.b(A.java)'
where step_name = 'write:partition2';
update batch_step_execution set status = 'STOPPED' where step_name = 'write:partition3';
update batch_job_execution set status = 'FAILED';
--= 101: 2 of 4, 1 failed, 1 cancelled
--> the job is restarted: an execution of its own, for what was left
insert into batch_job_execution (job_execution_id, status) values (102, 'STARTED');
insert into batch_step_execution (step_name, job_execution_id, status)
values ('write:partition2', 102, 'COMPLETED'), ('write:partition3', 102, 'COMPLETED');
update batch_job_execution set status = 'COMPLETED' where job_execution_id = 102;
--= 102: 2 of 2
--| 101 | job instance 10 | failed
--| 102 | job instance 10 | completed
--| read | completed | | created started completed |
--| write:partition1 | completed | | created |
--| write:partition2 | completed | | created |
--| write:partition2 | failed | | created completed | java.lang.Error: no
--| write:partition3 | cancelled | | created |
--| write:partition3 | completed | | created |
--> pruned: history is removed, steps first
delete from batch_step_execution where job_execution_id = 102;
--> pruned: then executions
delete from batch_job_execution where job_execution_id = 102;
--= 102: gone
--> every task
insert into batch_job_execution (job_execution_id) values (103) on conflict do nothing;
insert into batch_step_execution (job_execution_id, status) select 103, word from every;
--: completed COMPLETED; failed FAILED, UNKNOWN; cancelled STOPPED, ABANDONED; open STARTING, STARTED, STOPPING
--> every workflow
insert into batch_job_execution (status) select word from every returning job_execution_id::text, status;
--: completed COMPLETED; failed FAILED, UNKNOWN; cancelled STOPPED, ABANDONED; initiated STARTING
--: running STARTED, STOPPING
