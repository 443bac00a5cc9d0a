-- push puts an id at the queue's end and says so. One that is in the queue stays where it is, and nothing is said.
-- KEYS: 1 ready ids (sorted set by place)
-- ARGV: 1 id, 2 channel on which arrivals are said
-- Returns 1 when the id was put in, 0 when it was there.
-- Invariants: an id has one place; every place is higher than those given before it that are still taken.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) then return 0 end
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
redis.call('ZADD', KEYS[1], (tonumber(last[2]) or 0) + 1, ARGV[1])
redis.call('PUBLISH', ARGV[2], '')
return 1
