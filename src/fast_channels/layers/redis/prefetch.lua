-- Take payloads out of a shared channel, lowest scores first, so that none is lost on the way.
--
-- As in take.lua, a batch stays here until the next call says that it arrived,
-- and a call may be executed at any time. Whoever took it hands it out one by
-- one; what was not handed out when it died, the next call of anybody returns.
--
-- KEYS[1]  the batch under way: its number, then payloads and scores in turn
-- KEYS[2]  the channel
-- KEYS[3]  batches of whatever process, scored with when they are overdue
-- ARGV[1]  number of the last batch that arrived, 0 for none
-- ARGV[2]  how many of its payloads were handed out; the others go back
-- ARGV[3]  how many payloads to take at most
-- ARGV[4]  milliseconds until what nobody fetches is forgotten
-- ARGV[5]  seconds until a batch is overdue
--
-- Batches of others are not declared, since they are found here. Beside each,
-- under its name and ":out", may stand its number and how many were handed out.
--
-- Returns the number of a batch, and the batch.
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000

local function give_back(batch, handed)
  local rest = redis.call('LRANGE', batch, 1 + 2 * handed, -1)
  if #rest == 0 then
    return
  end
  -- First, because it takes no memory: a server that has none left then does
  -- not refuse the rest. Those that were handed out stay: their holder may live,
  -- and not have received the answer.
  redis.call('LTRIM', batch, 0, 2 * handed)
  for i = 1, #rest, 2 do
    redis.call('ZADD', KEYS[2], rest[i + 1], rest[i])
  end
  redis.call('PEXPIRE', KEYS[2], ARGV[4])
end

local arrived = tonumber(ARGV[1])
local number = tonumber(redis.call('LINDEX', KEYS[1], 0) or arrived)
if number == arrived then
  give_back(KEYS[1], tonumber(ARGV[2]))
end

for _, batch in ipairs(redis.call('ZRANGEBYSCORE', KEYS[3], '-inf', now)) do
  if batch ~= KEYS[1] then
    local of, handed = string.match(redis.call('GET', batch .. ':out') or '', '^(%d+) (%d+)$')
    -- The first counts as handed out when it is taken.
    give_back(batch, of == redis.call('LINDEX', batch, 0) and tonumber(handed) or 1)
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
