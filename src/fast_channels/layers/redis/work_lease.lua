-- Hand out work: first what is due again, then what is new.
--
-- KEYS[1]  the queue, a stream whose group "workers" knows who has what, and how often it was
--          handed out
-- KEYS[2]  what was handed out, scored with when it is due again, in milliseconds: because
--          nobody acknowledged it, or because a pause is over
-- KEYS[3]  dead letters
-- ARGV[1]  who asks
-- ARGV[2]  how many to hand out at most
-- ARGV[3]  milliseconds until what is handed out is due again
-- ARGV[4]  how often to hand out at most
-- ARGV[5]  the reason why what was handed out so often is dead
-- ARGV[6]  how many dead letters to keep
-- ARGV[7]  milliseconds after which what nobody has taken is forgotten; 0 for never
-- ARGV[8]  "all" if who asks has all that it was handed out; "some" if a reply may have been
--          lost, and then
-- ARGV[9+] what it has
--
-- Returns the milliseconds until something is due, -1 for none; how many were forgotten; and
-- id, number of deliveries and payload of each.
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
  -- The first writes take no memory: after them a server that has none left does not
  -- refuse the others.
  redis.call('XACK', KEYS[1], 'workers', id)
  redis.call('XDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
end

local function hand_out(id, deliveries, payload)
  redis.call('ZADD', KEYS[2], now + lease, id)
  reply[#reply + 1], reply[#reply + 2], reply[#reply + 3] = id, deliveries, payload
  given = given + 1
end

-- A reader that has nothing any more, and may be gone, is not to be listed for ever.
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
    -- One that waits for its pause to be over is in nobody's hands, and stays.
    local handed_out = (redis.call('ZSCORE', KEYS[2], held[1]) or 0) - lease
    if not has[held[1]] and math.abs(now - held[3] - handed_out) <= 2 then
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
    hand_out(id, held[4] + 1, entry[2][2])
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
      hand_out(entry[1], 1, entry[2][2])
    end
  end
end

if redis.call('XLEN', KEYS[1]) == 0 then
  redis.call('DEL', KEYS[1], KEYS[2])
end
local next_due = redis.call('ZRANGE', KEYS[2], 0, 0, 'WITHSCORES')[2]
local pause = next_due and math.max(0, math.ceil(next_due - now)) or -1
return {pause, expired, unpack(reply)}
