create type "TaskRunStatus" as enum (
    'DELAYED', 'PENDING', 'PENDING_VERSION', 'WAITING_FOR_DEPLOY', 'DEQUEUED', 'EXECUTING', 'WAITING_TO_RESUME',
    'RETRYING_AFTER_FAILURE', 'PAUSED', 'CANCELED', 'INTERRUPTED', 'COMPLETED_SUCCESSFULLY', 'COMPLETED_WITH_ERRORS',
    'SYSTEM_FAILURE', 'CRASHED', 'EXPIRED', 'TIMED_OUT'
);
create table "TaskRun" (
    id text primary key default gen_random_uuid(), "friendlyId" text, "taskIdentifier" text not null default 'page',
    status "TaskRunStatus" not null default 'PENDING', "attemptNumber" integer, error jsonb,
    "createdAt" timestamp(3) not null default now(), "startedAt" timestamp(3), "completedAt" timestamp(3),
    "parentTaskRunId" text
);
create index on "TaskRun" ("parentTaskRunId");
--> a run triggers others, and waits for them
insert into "TaskRun" (id, "taskIdentifier", status) values ('w', 'crawl', 'WAITING_TO_RESUME');
insert into "TaskRun" (id, "parentTaskRunId") select 'w-' || i, 'w' from generate_series(1, 6) as i;
--= w: 0 of 6
--> they run; one is tried again, one expires, one is cancelled
update "TaskRun" set status = 'EXECUTING', "attemptNumber" = 1, "startedAt" = now() where "parentTaskRunId" is not null;
update "TaskRun" set status = 'COMPLETED_SUCCESSFULLY', "completedAt" = now() where id in ('w-1', 'w-6');
update "TaskRun" set status = 'RETRYING_AFTER_FAILURE', "attemptNumber" = 2 where id = 'w-2';
update "TaskRun" set status = 'EXPIRED' where id = 'w-3';
update "TaskRun" set status = 'CANCELED' where id = 'w-4';
update "TaskRun" set status = 'COMPLETED_WITH_ERRORS', error = '{"type": "STRING_ERROR", "raw": "no"}' where id = 'w-5';
--= w: 2 of 6, 2 failed, 1 cancelled
--> a run is deleted: it leaves the total
delete from "TaskRun" where id = 'w-6';
--= w: 1 of 5, 2 failed, 1 cancelled
--> the retry succeeds, and the run ends
update "TaskRun" set status = 'COMPLETED_SUCCESSFULLY' where id in ('w', 'w-2');
--= w: 2 of 5, 2 failed, 1 cancelled
--| w | crawl | completed
--| page | cancelled | 0 | created started |
--| page | completed | 0 | created started completed |
--| page | completed | 1 | created started |
--| page | failed | 0 | created started |
--| page | failed | 0 | created started | no
--> pruned: the children are deleted, also after the end
delete from "TaskRun" where "parentTaskRunId" is not null and status = 'COMPLETED_SUCCESSFULLY';
--= w: 0 of 3, 2 failed, 1 cancelled
--> every task
insert into "TaskRun" (id) values ('w') on conflict do nothing;
insert into "TaskRun" (status, "parentTaskRunId") select word::"TaskRunStatus", 'w' from every;
--: completed COMPLETED_SUCCESSFULLY; cancelled CANCELED
--: failed COMPLETED_WITH_ERRORS, SYSTEM_FAILURE, CRASHED, INTERRUPTED, EXPIRED, TIMED_OUT
--: open DELAYED, PENDING, PENDING_VERSION, WAITING_FOR_DEPLOY, DEQUEUED, EXECUTING, WAITING_TO_RESUME, PAUSED
--: open RETRYING_AFTER_FAILURE
--> every workflow
insert into "TaskRun" (status) select word::"TaskRunStatus" from every returning id, status::text;
--: completed COMPLETED_SUCCESSFULLY; cancelled CANCELED; paused PAUSED
--: failed COMPLETED_WITH_ERRORS, SYSTEM_FAILURE, CRASHED, INTERRUPTED, EXPIRED, TIMED_OUT
--: initiated DELAYED, PENDING, PENDING_VERSION, WAITING_FOR_DEPLOY, DEQUEUED
--: running EXECUTING, WAITING_TO_RESUME, RETRYING_AFTER_FAILURE
