-- Put a payload back into a shared channel, once.
--
-- A call whose reply was lost is repeated, and by then another process may have received
-- the payload.
--
-- KEYS[1]  the channel
-- KEYS[2]  a key for this payload only, which says that it was put back
-- ARGV[1]  score
-- ARGV[2]  the payload
-- ARGV[3]  milliseconds until keys that are not used are deleted
if redis.call('SET', KEYS[2], '', 'NX', 'PX', ARGV[3]) then
  redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
