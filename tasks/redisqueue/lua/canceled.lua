-- canceled reports which tasks were canceled recently. It writes nothing.
-- KEYS: records of tasks (strings), any number
-- ARGV: none
-- Returns for each key, in order, 1 if the record exists, else 0.
local marks = {}
for i, key in ipairs(KEYS) do marks[i] = redis.call('EXISTS', key) end
return marks
