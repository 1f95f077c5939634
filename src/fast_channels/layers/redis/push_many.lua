-- Append payloads to one inbox, in this order, until it is full.
--
-- KEYS[1]  the inbox
-- ARGV[1]  lower scores have expired
-- ARGV[2]  milliseconds until an inbox that is not read is deleted
-- ARGV[3]  capacity
-- ARGV[4+] score and payload in turn, at most 1000 of each: unpack() takes a limited number
--
-- Returns how many were appended.
local room = ARGV[3] - redis.call('ZCOUNT', KEYS[1], ARGV[1], '+inf')
local count = math.max(0, math.min(room, (#ARGV - 3) / 2))
if count > 0 then
  -- The first write, so that a server without free memory refuses it.
  redis.call('ZADD', KEYS[1], unpack(ARGV, 4, 3 + 2 * count))
  redis.call('PEXPIRE', KEYS[1], ARGV[2])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. ARGV[1])
return count
