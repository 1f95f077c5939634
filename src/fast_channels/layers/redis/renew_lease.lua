-- Renew the lease of a process, by the clock of this server.
--
-- KEYS[1]  leases: processes, scored with the time their lease ends
-- KEYS[2]  entries to remove together with the process, see reap.lua
-- ARGV[1]  the process
-- ARGV[2]  seconds from now until the lease ends
-- ARGV[3]  milliseconds until both keys are deleted
-- ARGV[4+] entries of KEYS[2]
--
-- Returns whether the process had a lease until now, and how many leases have ended.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local held = redis.call('ZSCORE', KEYS[1], ARGV[1])
-- First a write that needs no memory: after it, a server without free memory does not refuse
-- the others, and the process can go on reading, which frees memory.
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('ZADD', KEYS[1], now + ARGV[2], ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
redis.call('SADD', KEYS[2], unpack(ARGV, 4))
redis.call('PEXPIRE', KEYS[2], ARGV[3])
return {held and 1 or 0, redis.call('ZCOUNT', KEYS[1], '-inf', now)}
