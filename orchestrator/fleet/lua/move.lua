-- Move due timers onto their queues, in one message as many of a queue as it may hold.
-- KEYS: due, epoch. ARGV: limit, queue prefix, message template, timers per message.
-- Returns: how many moved, milliseconds until the next (-1: none), whether the epoch is there.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + clock[2] / 1000
local members = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, tonumber(ARGV[1]))

local function send(queue, ids)
  local filled = string.gsub(ARGV[3], '@timer%-ids@', table.concat(ids, ','))
  filled = string.gsub(filled, '@timer%-id@', ids[1])
  filled = string.gsub(filled, '@queue@', (string.gsub(queue, '%%', '%%%%')))
  redis.call('LPUSH', ARGV[2] .. queue, filled)
end

local waiting, queues = {}, {}
for _, member in ipairs(members) do
  redis.call('ZREM', KEYS[1], member)  -- guard: a timer is moved once
  local id, queue = string.match(member, '^(%x+%-%x+%-%x+%-%x+%-%x+):(.*)$')
  if id then  -- what nobody of ours has written is dropped: it must not keep the others back
    if not waiting[queue] then
      waiting[queue] = {}
      table.insert(queues, queue)
    end
    table.insert(waiting[queue], id)
    if #waiting[queue] == tonumber(ARGV[4]) then
      send(queue, waiting[queue])
      waiting[queue] = {}
    end
  end
end
for _, queue in ipairs(queues) do
  if #waiting[queue] > 0 then send(queue, waiting[queue]) end
end

local wait = -1
local first = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
if first then wait = math.max(0, math.ceil(tonumber(first) - now)) end
return { #members, wait, redis.call('EXISTS', KEYS[2]) }
