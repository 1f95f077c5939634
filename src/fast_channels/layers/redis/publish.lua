-- Send a message to the members of a group: members.lua and push.lua in one go.
--
-- KEYS[1]  the group
-- KEYS[2]  leases: processes, scored with the time their lease ends
-- ARGV[1]  members that joined before this time in seconds have expired
-- ARGV[2]  score: the sender's time in seconds
-- ARGV[3]  scores below this one have expired
-- ARGV[4]  milliseconds until an inbox that nobody reads is forgotten
-- ARGV[5]  capacity of an inbox
-- ARGV[6]  what comes before the name of an inbox in its key
-- ARGV[7]  how a list of names is written: "msgpack" or "json"
-- ARGV[8]  the message before the list of its receivers
-- ARGV[9]  and after it
--
-- The keys of the inboxes are not declared: which ones they are is what the
-- group says, and asking first is the round trip that this saves. All are on
-- this server, or the sender would not have run this here.
--
-- Returns how many leases have ended, see reap.lua, how many inboxes were full,
-- and then the members that are no channel of a process. What is to be removed
-- is passed over: if it had to be removed first, later messages could go before
-- this one.
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
    -- Its process is not there any more.
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
    -- The first write, so that a server without memory left can refuse it.
    redis.call('ZADD', key, ARGV[2], ARGV[8] .. written(receivers[inbox]) .. ARGV[9])
    redis.call('PEXPIRE', key, ARGV[4])
  else
    reply[2] = reply[2] + 1
  end
  redis.call('ZREMRANGEBYSCORE', key, '-inf', '(' .. ARGV[3])
end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
return reply
