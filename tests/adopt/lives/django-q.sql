create table django_q_task (
    id varchar(32) primary key default md5(random()::text), name varchar(100), func varchar(256), result text,
    "group" varchar(100), started timestamptz not null default now(), stopped timestamptz not null default now(),
    success boolean not null, attempt_count integer not null default 1
);
--> tasks ran
insert into django_q_task (id, name, func, "group", success, result) values
    ('1', 'a', 'shop.mail', 'letters', true, null), ('2', 'b', 'shop.mail', 'letters', true, null),
    ('3', 'c', 'shop.mail', 'letters', false, 'gASVDgAAAAAAAAB9lA=='), ('4', 'd', 'shop.mail', null, true, null);
--= letters: 2 of 3, 1 failed
--> the failed one ran again
update django_q_task set success = true, attempt_count = 2, stopped = now() where id = '3';
insert into django_q_task (id, name, func, "group", success, result)
values ('5', 'e', 'shop.mail', 'letters', false, 'gASVDgAAAAAAAAB9lA==');
--= letters: 3 of 4, 1 failed
--| letters | letters | failed
--| shop.mail | completed | 0 | created started completed |
--| shop.mail | completed | 1 | created started completed |
--| shop.mail | failed | 0 | created started completed |
--> pruned: the oldest successes go, as save_limit says
delete from django_q_task where id in ('1', '2', '4');
--> every task
insert into django_q_task ("group", success) select 'g', word = 'success' from every;
--: completed success; failed failed
