-- pop takes the first id out of the queue.
-- KEYS: 1 ready ids (sorted set by place)
-- ARGV: none
-- Returns the id and how many stay behind, or nothing at all when the queue is empty.
-- Invariants: an id that was taken out leaves no trace, so one that never reached its worker can be pushed again.
local first = redis.call('ZPOPMIN', KEYS[1])
if #first == 0 then return {} end
return {first[1], redis.call('ZCARD', KEYS[1])}
