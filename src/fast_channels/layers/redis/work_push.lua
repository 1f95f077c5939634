-- Append payloads to a queue of work, in this order, until it is full.
--
-- KEYS[1]  the queue: what waits, is in hands or is to be tried again
-- ARGV[1]  capacity
-- ARGV[2]  milliseconds after which what nobody has taken is forgotten; 0 for never
-- ARGV[3]  where those listen who wait for work
-- ARGV[4+] payloads
--
-- Returns how many were appended.
local count, room = #ARGV - 3, ARGV[1] - redis.call('XLEN', KEYS[1])
local new = redis.call('EXISTS', KEYS[1]) == 0

if room < count and ARGV[2] ~= '0' and not new then
  local time = redis.call('TIME')
  local horizon = time[1] * 1000 + math.floor(time[2] / 1000) - ARGV[2]
  -- A group is listed as names and values in turn.
  local group, taken = redis.call('XINFO', 'GROUPS', KEYS[1])[1], '0-0'
  for i = 1, #group, 2 do
    if group[i] == 'last-delivered-id' then
      taken = group[i + 1]
    end
  end
  -- The bounds take part, so the one that was taken last is passed over.
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
