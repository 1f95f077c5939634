-- Remove what processes left here whose lease has ended.
--
-- KEYS[1]  leases: processes, scored with the time their lease ends
-- ARGV[1]  what comes before a process in the name of its key of things to remove
-- ARGV[2]  how many processes at most; those whose lease ended first come first
--
-- A thing to remove is "inbox <key>" or "member <channel> <key of a group>".
-- Returns how many processes were removed.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local ended = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[2])
for _, process in ipairs(ended) do
  local things = ARGV[1] .. process
  for _, thing in ipairs(redis.call('SMEMBERS', things)) do
    local inbox = string.match(thing, '^inbox (.*)$')
    local channel, group = string.match(thing, '^member (%S+) (.*)$')
    if inbox then
      redis.call('DEL', inbox)
    elseif channel then
      redis.call('ZREM', group, channel)
    end
  end
  redis.call('DEL', things)
  redis.call('ZREM', KEYS[1], process)
end
return #ended
