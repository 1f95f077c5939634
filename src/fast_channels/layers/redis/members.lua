-- Return the members of a group, without those that have expired.
--
-- KEYS[1]  the group
-- KEYS[2]  leases: processes, scored with the time their lease ends
-- ARGV[1]  members that joined before this time in seconds have expired
--
-- Returns nil if a process is to be removed first, see reap.lua.
local time = redis.call('TIME')
if redis.call('ZCOUNT', KEYS[2], '-inf', time[1] + time[2] / 1000000) > 0 then
  return nil
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
return redis.call('ZRANGE', KEYS[1], 0, -1)
