-- Read a part of the log of a topic, and where it stands.
--
-- KEYS[1]  the log, see append.lua
-- KEYS[2]  where it stands
-- ARGV[1]  epoch to begin with, should there be none
-- ARGV[2]  milliseconds until it is forgotten where the log stood
-- ARGV[3]  payloads to return at most
-- ARGV[4]  the offset of the first one; left out for the newest, which come in reverse
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
  if ARGV[4] then
    entries = redis.call('XRANGE', KEYS[1], ARGV[4], '+', 'COUNT', ARGV[3])
  else
    entries = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', ARGV[3])
  end
end
local found = {}
for _, entry in ipairs(entries) do
  found[#found + 1] = entry[1]
  found[#found + 1] = entry[2][2]
end
return {epoch, offset, tag, found}
