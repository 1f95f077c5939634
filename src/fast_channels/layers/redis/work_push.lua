-- Append payloads to a queue of work, in this order, until it is full.
--
-- KEYS[1]  the queue: messages that wait, are leased or will be retried
-- ARGV[1]  capacity
-- ARGV[2]  milliseconds after which messages that were never leased are forgotten; 0 for never
-- ARGV[3]  the channel for notices to waiting workers
-- ARGV[4+] payloads
--
-- Returns how many were appended.
local count, room = #ARGV - 3, ARGV[1] - redis.call('XLEN', KEYS[1])
local new = redis.call('EXISTS', KEYS[1]) == 0

if room < count and ARGV[2] ~= '0' and not new then
  local time = redis.call('TIME')
  local horizon = time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[2]
  -- The server describes a group by names and values in turn.
  local group, taken = redis.call('XINFO', 'GROUPS', KEYS[1])[1], '0-0'
  for i = 1, #group, 2 do
    if group[i] == 'last-delivered-id' then
      taken = group[i + 1]
    end
  end
  -- The range includes its bounds, and the first one was leased already.
  local range = redis.call(
    'XRANGE', KEYS[1], taken, string.format('%.0f', horizon), 'COUNT', count - room + 1
  )
  for _, entry in ipairs(range) do
    if entry[1] ~= taken and room < count then
      redis.call('XDEL', KEYS[1], entry[1])
      room = room + 1
    end
  end
end

count = math.max(0, math.min(room, count))
for i = 1, count do
  redis.call('XADD', KEYS[1], '*', 'p', ARGV[3 + i])
end
if count > 0 then
  if new then
    redis.call('XGROUP', 'CREATE', KEYS[1], 'workers', '0')
  end
  redis.call('PUBLISH', ARGV[3], '')
end
return count
