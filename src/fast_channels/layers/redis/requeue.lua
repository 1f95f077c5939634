-- Put a payload back into a shared channel, once.
--
-- A call whose answer got lost is made again, and by then somebody may have
-- received the payload.
--
-- KEYS[1]  the channel
-- KEYS[2]  a key of this payload alone, which tells that it was put back
-- ARGV[1]  score
-- ARGV[2]  the payload
-- ARGV[3]  milliseconds until what nobody fetches is forgotten
if redis.call('SET', KEYS[2], '', 'NX', 'PX', ARGV[3]) then
  redis.call('ZADD', KEYS[1], ARGV[1], ARGV[2])
  redis.call('PEXPIRE', KEYS[1], ARGV[3])
end
return 1
