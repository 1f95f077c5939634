-- Read a part of the log of a topic, and its end.
--
-- KEYS[1]  the log, see append.lua
-- KEYS[2]  the end of the log
-- ARGV[1]  epoch of a new log
-- ARGV[2]  milliseconds until the end of the log is deleted
-- ARGV[3]  how many payloads to return at most
-- ARGV[4]  the offset of the first one; if negative, the number of newest payloads to read
--
-- Returns epoch, offset and tag of the last payload in the log, and a list of ids and payloads.
local epoch, offset, tag = unpack(redis.call('HMGET', KEYS[2], 'epoch', 'offset', 'tag'))
if not epoch then
  redis.call('DEL', KEYS[1])
  epoch, offset, tag = ARGV[1], '0', '0'
  redis.call('HSET', KEYS[2], 'epoch', epoch, 'offset', offset, 'tag', tag)
end
-- The caller will come back with the position it gets. Renewing costs a write to the
-- replicas, so it is not done each time.
if redis.call('PTTL', KEYS[2]) < ARGV[2] / 2 then
  redis.call('PEXPIRE', KEYS[2], ARGV[2])
end

local entries = {}
if ARGV[3] ~= '0' then
  local first = tonumber(ARGV[4])
  if first < 0 then
    first = math.max(0, offset + first + 1)
  end
  entries = redis.call('XRANGE', KEYS[1], string.format('%.0f', first), '+', 'COUNT', ARGV[3])
end
local found = {}
for _, entry in ipairs(entries) do
  found[#found + 1] = entry[1]
  found[#found + 1] = entry[2][2]
end
return {epoch, offset, tag, found}
