-- pop removes the first id of the queue.
-- KEYS: 1 ready ids (sorted set by place)
-- ARGV: none
-- Returns the id and the number of remaining ids, or an empty table if the queue is empty.
-- Invariants: nothing is stored about a removed id, so one that never reached its worker can be pushed again.
local first = redis.call('ZPOPMIN', KEYS[1])
if #first == 0 then return {} end
return {first[1], redis.call('ZCARD', KEYS[1])}
