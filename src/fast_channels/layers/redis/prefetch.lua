-- Take payloads out of a shared channel, lowest scores first, so that a lost reply loses none.
--
-- As in take.lua, a batch stays on the server until the next call confirms it, and a delayed
-- call is harmless. The process hands the payloads out one by one. If it dies, the next call
-- of any process requeues the payloads that it has not handed out.
--
-- KEYS[1]  the current batch: its number, then payloads and scores in turn
-- KEYS[2]  the channel
-- KEYS[3]  the batches of all processes, scored with the time at which they are overdue
-- ARGV[1]  number of the last batch that has arrived, 0 for none
-- ARGV[2]  how many of its payloads were handed out; the others are requeued
-- ARGV[3]  how many payloads to take at most
-- ARGV[4]  milliseconds until keys that are not used are deleted
-- ARGV[5]  seconds until a batch is overdue
--
-- The batches of other processes are not declared as keys, because their names are found
-- here. A key with the name of a batch and ":out" may have its number and how many of its
-- payloads were handed out.
--
-- Returns the number of a batch, and the batch.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

local function requeue(batch, handed)
  local rest = redis.call('LRANGE', batch, 1 + 2 * handed, -1)
  if #rest == 0 then
    return
  end
  -- First a write that needs no memory: after it, a server without free memory does not
  -- refuse the others. Payloads that count as handed out stay, because their process may be
  -- alive and still wait for the reply.
  redis.call('LTRIM', batch, 0, 2 * handed)
  for i = 1, #rest, 2 do
    redis.call('ZADD', KEYS[2], rest[i + 1], rest[i])
  end
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end

local arrived = tonumber(ARGV[1])
local number = tonumber(redis.call('LINDEX', KEYS[1], 0) or arrived)
if number == arrived then
  requeue(KEYS[1], tonumber(ARGV[2]))
end

for _, batch in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now)) do
  if batch ~= KEYS[1] then
    local of, handed = string.match(redis.call('GET', batch .. ':out') or '', '^(%d+) (%d+)$')
    -- The first payload counts as handed out when it is taken.
    requeue(batch, of == redis.call('LINDEX', batch, 0) and tonumber(handed) or 1)
    redis.call('ZREM', KEYS[3], batch)
  end
end

if number <= arrived then
  redis.call('DEL', KEYS[1])
  number = arrived
  local batch = {}
  if ARGV[3] ~= '0' then
    batch = redis.call('ZPOPMIN', KEYS[2], ARGV[3])
  end
  if #batch > 0 then
    number = arrived + 1
  end
  redis.call('RPUSH', KEYS[1], number, unpack(batch))
end
redis.call('PEXPIRE', KEYS[1], ARGV[4])
if redis.call('LLEN', KEYS[1]) > 3 then
  redis.call('ZADD', KEYS[3], now + ARGV[5], KEYS[1])
  redis.call('PEXPIRE', KEYS[3], ARGV[4])
else
  redis.call('ZREM', KEYS[3], KEYS[1])
end
return redis.call('LRANGE', KEYS[1], 0, -1)
