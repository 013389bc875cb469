-- Move due timers onto their queues. KEYS: due, epoch. ARGV: limit, queue prefix, message template.
-- Returns: how many moved, milliseconds until the next (-1: none), whether the epoch is there.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + clock[2] / 1000
local members = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, tonumber(ARGV[1]))
for _, member in ipairs(members) do
  local id, queue = string.match(member, '^([^:]+):(.*)$')
  redis.call('ZREM', KEYS[1], member)
  if id then  -- what nobody of ours has written is dropped: it must not keep the others back
    local filled = string.gsub(ARGV[3], '@timer%-id@', id)
    filled = string.gsub(filled, '@queue@', (string.gsub(queue, '%%', '%%%%')))
    redis.call('LPUSH', ARGV[2] .. queue, filled)
  end
end
local wait = -1
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
if first then wait = math.max(0, math.ceil(tonumber(first) - now)) end
return { #members, wait, redis.call('EXISTS', KEYS[2]) }
