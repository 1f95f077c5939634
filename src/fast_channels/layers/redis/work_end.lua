-- End a lease, unless the message was leased again since.
--
-- KEYS     as in work_lease.lua
-- ARGV[1]  the process that had the lease
-- ARGV[2]  the id of the message
-- ARGV[3]  how often it had been delivered then
-- ARGV[4]  "acknowledge"; "retry": the message is due in ARGV[5] milliseconds; "reject": it
--          becomes a dead letter with the reason ARGV[6]; or "release": it is due now, and
--          this delivery does not count
-- ARGV[7]  how many dead letters to keep
-- ARGV[8]  the channel for notices to waiting workers
--
-- Returns 1, or 0 if the message was leased again since, or is gone.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
local id = ARGV[2]
local held = redis.call('XPENDING', KEYS[1], 'workers', id, id, 1)[1]
if not held or held[2] ~= ARGV[1] or held[4] ~= tonumber(ARGV[3]) then
  return 0
end

if ARGV[4] == 'retry' then
  local time = redis.call('TIME')
  -- First a write that needs no memory, as in work_lease.lua.
  redis.call('ZREM', KEYS[2], id)
  redis.call('ZADD', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[5], id)
elseif ARGV[4] == 'release' then
  redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], 0, id, 'RETRYCOUNT', held[4] - 1, 'JUSTID')
  -- Due since it was pushed, and therefore before messages that were pushed later.
  local came, number = string.match(id, '^(%d+)-(%d+)$')
  redis.call('ZADD', KEYS[2], came + math.min(tonumber(number), 4000) / 4096, id)
else
  local entry = redis.call('XRANGE', KEYS[1], id, id)[1]
  redis.call('XACK', KEYS[1], 'workers', id)
  if ARGV[4] == 'reject' and entry then
    redis.call(
      'XADD', KEYS[3], 'MAXLEN', ARGV[7], '*', 'p', entry[2][2], 'r', ARGV[6], 'n', ARGV[3]
    )
  end
  redis.call('XDEL', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
  if redis.call('XLEN', KEYS[1]) == 0 then
    -- This also deletes the group, with the names of processes that are gone.
    redis.call('DEL', KEYS[1], KEYS[2])
  end
  return 1
end
redis.call('PUBLISH', ARGV[8], '')
return 1
