-- cancel tells everyone who watches a task that it is canceled, and for a while those who are about to.
-- KEYS: 1 mark of the canceled task (string)
-- ARGV: 1 id, 2 how long the mark stays, ms, 3 channel on which cancels are said
-- Returns 1.
-- Invariants: the mark is there before the cancel is said, and never stays for good.
redis.call('SET', KEYS[1], '', 'PX', ARGV[2])
redis.call('PUBLISH', ARGV[3], ARGV[1])
return 1
