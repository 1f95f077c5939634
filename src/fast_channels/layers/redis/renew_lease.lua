-- Renew the lease of a process, by the clock of this server.
--
-- KEYS[1]  leases: processes, scored with the time their lease ends
-- KEYS[2]  what is to be removed with the process, see reap.lua
-- ARGV[1]  the process
-- ARGV[2]  seconds that the lease lasts from now
-- ARGV[3]  milliseconds until both keys are forgotten
-- ARGV[4+] entries of KEYS[2]
--
-- Returns whether the lease was held till now, and how many of others have ended.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local held = redis.call('ZSCORE', KEYS[1], ARGV[1])
-- First a write that takes no memory: after it, a server that has none left
-- does not refuse the others, and a process goes on reading, which makes room.
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('SADD', KEYS[2], unpack(ARGV, 4))
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {held and 1 or 0, redis.call('ZCOUNT', KEYS[1], '-inf', now)}
