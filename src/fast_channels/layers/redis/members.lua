-- Return the members of a group, except for expired ones and those of dead processes.
--
-- KEYS[1]  the group
-- KEYS[2]  leases: processes, scored with the time their lease ends
-- ARGV[1]  members that joined before this time in seconds have expired
--
-- Returns how many leases have ended (see reap.lua), and then the members.
local time = redis.call('TIME')
local ended, gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', time[1] + time[2] / 1000000), {}
for _, process in ipairs(ended) do
  gone[process] = true
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
local reply = {#ended}
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if not gone[string.match(member, '^[^!]-([^.!]*)!') or ''] then
    reply[#reply + 1] = member
  end
end
return reply
