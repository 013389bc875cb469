-- Arm timers. KEYS: due, wake. ARGV: member, milliseconds left; member, milliseconds left; ...
-- Wakes the timer dispatchers when the earliest due time has moved forward.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + clock[2] / 1000
local before = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
local earliest = nil
for i = 1, #ARGV, 2 do
  local due = math.ceil(now + tonumber(ARGV[i + 1]))
  redis.call('ZADD', KEYS[1], due, ARGV[i])
  if not earliest or due < earliest then earliest = due end
end
if earliest and (not before or earliest < tonumber(before)) then
  redis.call('PUBLISH', KEYS[2], '')
end
return 1
