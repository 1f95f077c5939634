-- End a claim, if it has not passed to somebody else.
--
-- KEYS     as in work_claim.lua
-- ARGV[1]  who had it
-- ARGV[2]  its id
-- ARGV[3]  how often it had been handed out, then
-- ARGV[4]  "done"; "later": it is due in ARGV[5] milliseconds; "dead": for the reason
--          ARGV[6]; or "back": it is due now, as if it had not been handed out
-- ARGV[7]  how many dead letters to keep
-- ARGV[8]  where those listen who wait for work
--
-- Returns 1, or 0 if somebody else has it or had it since.
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
  -- First a write that takes no memory, as in work_claim.lua.
  redis.call('ZREM', KEYS[2], id)
  redis.call('ZADD', KEYS[2], time[1] * 1000 + math.floor(time[2] / 1000) + ARGV[5], id)
elseif ARGV[4] == 'release' then
  redis.call('XCLAIM', KEYS[1], 'workers', ARGV[1], 0, id, 'RETRYCOUNT', held[4] - 1, 'JUSTID')
  -- Due since it came, and so before what came after it.
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
    -- With it go the group, and the names of readers that are gone.
    redis.call('DEL', KEYS[1], KEYS[2])
  end
  return 1
end
redis.call('PUBLISH', ARGV[8], '')
return 1
