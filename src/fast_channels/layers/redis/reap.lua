-- Remove what processes have left on this server whose lease has ended.
--
-- KEYS[1]  leases: processes, scored with the time their lease ends
-- ARGV[1]  what comes before a process in the name of the key that lists its belongings
-- ARGV[2]  how many processes to remove at most, in the order in which their leases ended
--
-- A belonging is "inbox <key>" or "member <channel> <key of a group>".
-- Returns how many processes were removed.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local ended = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
for _, process in ipairs(ended) do
  local belongings = ARGV[1] .. process
  for _, belonging in ipairs(redis.call('SMEMBERS', belongings)) do
    local inbox = string.match(belonging, '^inbox (.*)$')
    local channel, group = string.match(belonging, '^member (%S+) (.*)$')
    if inbox then
      redis.call('DEL', inbox)
    elseif channel then
      redis.call('ZREM', group, channel)
    end
  end
  redis.call('DEL', belongings)
  redis.call('ZREM', KEYS[1], process)
end
return #ended
