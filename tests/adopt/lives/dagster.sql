create table runs (
    id bigserial primary key, run_id varchar(255) unique, pipeline_name text, status varchar(63), run_body text,
    partition text, create_timestamp timestamp default now(), start_time double precision, end_time double precision,
    backfill_id varchar(255)
);
--> a backfill is launched, and a run of its own
insert into runs (run_id, pipeline_name, status, partition, backfill_id, run_body)
select 'p' || i, 'daily', 'QUEUED', '2026-01-0' || i, 'abcdefgh', '{"root_run_id": null}'
from generate_series(1, 4) as i;
insert into runs (run_id, pipeline_name, status, run_body) values ('r1', 'alone', 'STARTED', '{"root_run_id": null}');
--= abcdefgh: 0 of 4; r1: 0 of 1
--> runs end, one of them cancelled; the one alone fails, and is executed again from where it failed
update runs set status = 'SUCCESS', start_time = 1.7e9, end_time = 1.7e9 where run_id in ('p1', 'p2');
update runs set status = 'CANCELING' where run_id = 'p3';
update runs set status = 'CANCELED' where run_id = 'p3';
update runs set status = 'FAILURE', start_time = 1.7e9, end_time = 1.7e9 where run_id = 'r1';
insert into runs (run_id, pipeline_name, status, run_body)
values ('r2', 'alone', 'STARTED', '{"root_run_id": "r1", "parent_run_id": "r1"}');
--= abcdefgh: 2 of 4, 1 cancelled; r1: 0 of 2, 1 failed
--> one is deleted before the end, and leaves the number
delete from runs where run_id = 'p2';
--= abcdefgh: 1 of 3, 1 cancelled
--> the others succeed
update runs set status = 'SUCCESS' where run_id in ('r2', 'p4');
--= abcdefgh: 2 of 3, 1 cancelled; r1: 1 of 2, 1 failed
--| abcdefgh | daily | completed
--| r1 | alone | failed
--| alone | completed | | created |
--| alone | failed | | created started completed |
--| daily 2026-01-01 | completed | | created started completed |
--| daily 2026-01-03 | cancelled | | created |
--| daily 2026-01-04 | completed | | created |
--> pruned: runs are deleted
delete from runs where backfill_id = 'abcdefgh';
--= abcdefgh: gone
--> every task
insert into runs (run_id, backfill_id, status, run_body) select gen_random_uuid()::text, 'b', word, '{}' from every;
--: completed SUCCESS; failed FAILURE; cancelled CANCELED
--: open NOT_STARTED, QUEUED, MANAGED, STARTING, STARTED, CANCELING
