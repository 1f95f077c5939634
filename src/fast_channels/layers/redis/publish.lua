-- Send a message to the members of a group: members.lua and push.lua in one step.
--
-- KEYS[1]  the group
-- KEYS[2]  leases: processes, scored with the time their lease ends
-- ARGV[1]  members that joined before this time in seconds have expired
-- ARGV[2]  score: the sender's time in seconds
-- ARGV[3]  lower scores have expired
-- ARGV[4]  milliseconds until an inbox that is not read is deleted
-- ARGV[5]  capacity of an inbox
-- ARGV[6]  what an inbox's key has before its name
-- ARGV[7]  format of a list of names: "msgpack" or "json"
-- ARGV[8]  the part of the message before the list of its receivers
-- ARGV[9]  the part after it
--
-- The keys of the inboxes are not declared, because only the group tells which they are, and
-- to ask first would be the round trip that this script saves. All of them are on this
-- server: otherwise the sender does not run this script.
--
-- Returns how many leases have ended (see reap.lua), how many inboxes were full, and then the
-- members that are shared channels. Members of dead processes are only skipped: if they were
-- removed first, later messages could overtake this one.
local time = redis.call('TIME')
local ended, gone = redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', time[1] + time[2] / 1000000), {}
for _, process in ipairs(ended) do
  gone[process] = true
end

local inboxes, receivers, reply = {}, {}, {#ended, 0}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. ARGV[1], '+inf')) do
  local inbox = string.match(member, '^([%w._-]+!)[%w._-]*$')
  if not inbox then
    reply[#reply + 1] = member
  elseif gone[string.match(inbox, '([^.]*)!$')] then
    -- Its process is dead.
  elseif receivers[inbox] then
    table.insert(receivers[inbox], member)
  else
    inboxes[#inboxes + 1], receivers[inbox] = inbox, {member}
  end
end

local written = ARGV[7] == 'json' and cjson.encode or cmsgpack.pack
for _, inbox in ipairs(inboxes) do
  local key = ARGV[6] .. inbox
  if redis.call('ZCOUNT', key, ARGV[3], '+inf') < tonumber(ARGV[5]) then
    -- The first write, so that a server without free memory refuses it.
    redis.call('ZADD', key, ARGV[2], ARGV[8] .. written(receivers[inbox]) .. ARGV[9])
    redis.call('PEXPIRE', key, ARGV[4])
  else
    reply[2] = reply[2] + 1
  end
  redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. ARGV[3])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
return reply
