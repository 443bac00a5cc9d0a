-- canceled tells which tasks were canceled a moment ago. It changes nothing.
-- KEYS: marks of tasks (strings), any number
-- ARGV: none
-- Returns for each key, in order, 1 when the mark is there and 0 when not.
local marks = {}
for i, key in ipairs(KEYS) do marks[i] = redis.call('EXISTS', key) end
return marks
