-- Append payloads to inboxes, each within its capacity.
--
-- KEYS     the inboxes
-- ARGV[1]  score: the sender's time in seconds
-- ARGV[2]  lower scores have expired
-- ARGV[3]  milliseconds until an inbox that is not read is deleted
-- ARGV[4+] capacity and payload of each inbox
--
-- Returns how many inboxes were full.
local full = 0
for i, inbox in ipairs(KEYS) do
  local capacity, payload = tonumber(ARGV[2 + 2 * i]), ARGV[3 + 2 * i]
  if redis.call('ZCOUNT', inbox, ARGV[2], '+inf') < capacity then
    -- The first write, so that a server without free memory refuses it.
    redis.call('ZADD', inbox, ARGV[1], payload)
    redis.call('PEXPIRE', inbox, ARGV[3])
  else
    full = full + 1
  end
  redis.call('ZREMRANGEBYSCORE', inbox, '-inf', '(' .. ARGV[2])
end
return full
