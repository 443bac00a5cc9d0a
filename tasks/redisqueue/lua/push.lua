-- push puts ids at the queue's end and says so. One that is in the queue stays where it is; when all are, nothing is said.
-- KEYS: 1 ready ids (sorted set by place)
-- ARGV: 1 channel on which arrivals are said, then the ids, in order
-- Returns how many were put in.
-- Invariants: an id has one place; every place is higher than those given before it that are still taken.
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local place, put = tonumber(last[2]) or 0, 0
for i = 2, #ARGV do
  if redis.call('ZADD', KEYS[1], 'NX', place + 1, ARGV[i]) == 1 then
    place, put = place + 1, put + 1
  end
end
if put > 0 then redis.call('PUBLISH', ARGV[1], '') end
return put
