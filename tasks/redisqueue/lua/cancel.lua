-- cancel records that a task is canceled, for watches that begin later, and notifies its watchers.
-- KEYS: 1 record of the canceled task (string)
-- ARGV: 1 id, 2 time to live of the record in ms, 3 channel of cancels
-- Returns 1.
-- Invariants: the record exists before the notification is published, and it always expires.
redis.call('SET', KEYS[1], '', 'PX', ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[1])
return 1
