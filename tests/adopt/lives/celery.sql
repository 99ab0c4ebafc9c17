create table django_celery_results_taskresult (
    id serial primary key, task_id varchar(255) unique not null default gen_random_uuid(), task_name varchar(255),
    task_kwargs text, status varchar(50) not null, content_type varchar(128) not null default 'application/json',
    result text, date_created timestamptz not null default now(), date_started timestamptz,
    date_done timestamptz not null default now(), traceback text, meta text
);
--> tasks start: known by a keyword argument, by request.meta; one without; one whose results are pickled
insert into django_celery_results_taskresult (task_id, task_name, task_kwargs, status, meta) values
    ('a', 'shop.mail', '"{''workflow_id'': ''order-7'', ''to'': 3}"', 'STARTED', '{}'),
    ('b', 'shop.mail', '"{''to'': 4, ''workflow_id'': ''order-7''}"', 'STARTED', null),
    ('c', 'shop.bill', null, 'STARTED', '{"workflow_id": 7, "children": []}'),
    ('d', 'shop.bill', '"{}"', 'SUCCESS', '{"children": []}'),
    ('f', 'shop.bill', null, 'STARTED', '{"workflow_id": 7, "children": []}');
insert into django_celery_results_taskresult (task_id, status, content_type, meta)
values ('e', 'SUCCESS', 'application/x-python-serialize', 'gASVDgAAAAAAAAB9lA==');
--= order-7: 0 of 2; 7: 0 of 2
--> one ends, one is tried again, one is revoked
update django_celery_results_taskresult set status = 'SUCCESS', date_started = now() where task_id = 'a';
update django_celery_results_taskresult set status = 'RETRY' where task_id = 'b';
update django_celery_results_taskresult set status = 'REVOKED' where task_id = 'c';
--= order-7: 1 of 2; 7: 0 of 2, 1 cancelled
--> cleaned up before the end: it leaves the total
insert into django_celery_results_taskresult (task_id, task_name, status, meta)
values ('g', 'shop.bill', 'SUCCESS', '{"workflow_id": 7}');
delete from django_celery_results_taskresult where task_id = 'g';
--> the retry fails
update django_celery_results_taskresult
set status = 'FAILURE', traceback = E'Traceback (most recent call last):\n  File "a.py"\nValueError: no'
where task_id = 'b';
update django_celery_results_taskresult set status = 'SUCCESS' where task_id = 'f';
--= order-7: 1 of 2, 1 failed; 7: 1 of 2, 1 cancelled
--| order-7 | order-7 | failed
--| 7 | 7 | completed
--| shop.bill | cancelled | | created completed |
--| shop.bill | completed | | created completed |
--| shop.mail | completed | | created started completed |
--| shop.mail | failed | | created completed | ValueError: no
--> pruned: celery.backend_cleanup deletes what is old, whatever its state
delete from django_celery_results_taskresult;
--> every task
insert into django_celery_results_taskresult (status, meta) select word, '{"workflow_id": 1}' from every;
--: completed SUCCESS; failed FAILURE; cancelled REVOKED, REJECTED, IGNORED; open PENDING, RECEIVED, STARTED, RETRY
