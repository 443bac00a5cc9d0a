-- push appends ids to the queue and notifies waiting processes. An id that is in the queue keeps its place. If all
-- are, no notification is published.
-- KEYS: 1 ready ids (sorted set by place)
-- ARGV: 1 channel of arrivals, then the ids in order
-- Returns the number of added ids.
-- Invariants: an id has one place; each new place is higher than all places in use.
local last = redis.call('ZREVRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local place, put = tonumber(last[2]) or 0, 0
for i = 2, #ARGV do
  if redis.call('ZADD', KEYS[1], 'NX', place + 1, ARGV[i]) == 1 then
    place, put = place + 1, put + 1
  end
end
if put > 0 then redis.call('PUBLISH', ARGV[1], '') end
return put
