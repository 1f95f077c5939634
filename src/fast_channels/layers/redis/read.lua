-- Read a part of the log of a topic, and where it stands.
--
-- KEYS[1]  the log, see append.lua
-- KEYS[2]  where it stands
-- ARGV[1]  epoch to begin with, should there be none
-- ARGV[2]  milliseconds until it is forgotten where the log stood
-- ARGV[3]  payloads to return at most
-- ARGV[4]  the offset of the first one; if it is negative, how many of the newest are wanted
--
-- Returns epoch, offset and tag of the last payload of all, and a list of ids and payloads.
local epoch, offset, tag = unpack(redis.call('HMGET', KEYS[2], 'epoch', 'offset', 'tag'))
if not epoch then
  redis.call('DEL', KEYS[1])
  epoch, offset, tag = ARGV[1], '0', '0'
  redis.call('HSET', KEYS[2], 'epoch', epoch, 'offset', offset, 'tag', tag)
end
-- Whoever reads will come back with what it was told. Renewing costs a write to the
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
