-- Lease messages to a process: first those that are due again, then new ones.
--
-- KEYS[1]  the queue, a stream whose group "workers" knows which process has which message,
--          and how often it was delivered
-- KEYS[2]  leased messages, scored with the time in milliseconds at which they are due again:
--          because the lease ends, or because the pause after a failure is over
-- KEYS[3]  dead letters
-- ARGV[1]  the process
-- ARGV[2]  how many messages to lease at most
-- ARGV[3]  milliseconds until a lease ends
-- ARGV[4]  how often to deliver a message at most
-- ARGV[5]  the reason in the dead letter of a message that was delivered so often
-- ARGV[6]  how many dead letters to keep
-- ARGV[7]  milliseconds after which messages that were never leased are forgotten; 0 for never
-- ARGV[8]  "all" if the process knows of all its leases; "some" if a reply may have been lost,
--          and then
-- ARGV[9+] the ids of messages that it knows to have
--
-- Returns the milliseconds until a message is due, or -1; how many messages were forgotten; and
-- id, number of deliveries and payload of each leased message.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[2])
  return {-1, 0}
end

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local wanted, lease, most = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local expired, reply, given = 0, {}, 0

local function pending(id)
  return redis.call('XPENDING', KEYS[1], 'workers', id, id, 1)[1]
end

local function forget(id)
  -- The first writes need no memory: after them, a server without free memory does not
  -- refuse the others.
  redis.call('XACK', KEYS[1], 'workers', id)
  redis.call('XDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
end

local function deliver(id, deliveries, payload)
  redis.call('ZADD', KEYS[2], now + lease, id)
  reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = id, deliveries, payload
  given = given + 1
end

-- Forget a process without messages, which may be dead: the group lists it otherwise for ever.
local function dismiss(reader)
  if reader ~= ARGV[1] and #redis.call('XPENDING', KEYS[1], 'workers', '-', '+', 1, reader) == 0 then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], 'workers', reader)
  end
end

if ARGV[8] == 'some' then
  local has = {}
  for i = 9, #ARGV do
    has[ARGV[i]] = true
  end
  for _, held in ipairs(redis.call('XPENDING', KEYS[1], 'workers', '-', '+', 1000, ARGV[1])) do
    -- A message that waits after a failure is not leased, and stays.
    local leased_at = (redis.call('ZSCORE', KEYS[2], held[1]) or 0) - lease
    if not has[held[1]] and math.abs(now - held[3] - leased_at) <= 2 then
      redis.call(
        'XCLAIM', KEYS[1], 'workers', ARGV[1], 0, held[1], 'RETRYCOUNT', held[4] - 1, 'JUSTID'
      )
      redis.call('ZADD', KEYS[2], now, held[1])
    end
  end
end

for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '-inf', now, 'LIMIT', 0, wanted)) do
  local entry, held = redis.call('XRANGE', KEYS[1], id, id)[1], pending(id)
  if not entry or not held then
    forget(id)
  elseif held[4] >= most then
    redis.call('XACK', KEYS[1], 'workers', id)
    redis.call(
      'XADD', KEYS[3], 'MAXLEN', ARGV[6], '*', 'p', entry[2][2], 'r', ARGV[5], 'n', held[4]
    )
    forget(id)
    dismiss(held[2])
  else
    redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], 0, id, 'RETRYCOUNT', held[4] + 1, 'JUSTID')
    deliver(id, held[4] + 1, entry[2][2])
    dismiss(held[2])
  end
end

while given < wanted do
  local news = redis.call(
    'XREADGROUP', 'GROUP', 'workers', ARGV[1], 'COUNT', wanted - given, 'STREAMS', KEYS[1], '>'
  )
  if not news then
    break
  end
  for _, entry in ipairs(news[1][2]) do
    local came = tonumber(string.match(entry[1], '^%d+'))
    if ARGV[7] ~= '0' and came < now - ARGV[7] then
      forget(entry[1])
      expired = expired + 1
    else
      deliver(entry[1], 1, entry[2][2])
    end
  end
end

if redis.call('XLEN', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[1], KEYS[2])
end
local next_due = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
local pause = next_due and math.max(0, math.ceil(next_due - now)) or -1
return {pause, expired, unpack(reply)}
