-- Append a payload to the log of a topic and publish it.
--
-- KEYS[1]  the log, a stream whose ids are `<offset>-<tag>`
-- KEYS[2]  the end of the log: a hash of epoch, offset and tag, which outlives the log
-- KEYS[3]  the shared channels in the group, a set
-- KEYS[4]  the result of the payload's idempotency key; may be left out. A position, followed
--          by '+' until the payload was sent to the shared channels
-- ARGV[1]  payload
-- ARGV[2]  epoch of a new log
-- ARGV[3]  tag of the payload, a random number
-- ARGV[4]  number of payloads to keep
-- ARGV[5]  milliseconds until a log that is not appended to is deleted
-- ARGV[6]  milliseconds until the end of the log is deleted
-- ARGV[7]  milliseconds for which an idempotency key counts
--
-- Publishes to a channel with the name of the log: in the first line the payload's position
-- and the tag of the payload before it, then the payload.
--
-- Returns the position, and the shared channels that the payload has to be sent to.
local members = redis.call('SMEMBERS', KEYS[3])
if KEYS[4] then
  local known = redis.call('GET', KEYS[4])
  if known then
    local position, unsent = string.gsub(known, '%+$', '')
    return {position, unsent > 0 and members or {}}
  end
end

local epoch, offset, before = unpack(redis.call('HMGET', KEYS[2], 'epoch', 'offset', 'tag'))
if not epoch then
  -- A log without a known end belongs to another epoch.
  redis.call('DEL', KEYS[1])
  epoch, offset, before = ARGV[2], '0', '0'
end

local function append(offset)
  return redis.pcall('XADD', KEYS[1], 'MAXLEN', ARGV[4], offset .. '-' .. ARGV[3], 'p', ARGV[1])
end

offset = string.format('%.0f', offset + 1)
local added = append(offset)
if type(added) == 'table' and added.err and string.find(added.err, 'equal or smaller', 1, true) then
  -- The log is ahead of its end, which was restored from older data, by hand or by a failover.
  redis.call('DEL', KEYS[1])
  epoch, offset, before = ARGV[2], '1', '0'
  added = append(offset)
end
if type(added) == 'table' and added.err then
  return added
end
redis.call('PEXPIRE', KEYS[1], ARGV[5])
redis.call('HSET', KEYS[2], 'epoch', epoch, 'offset', offset, 'tag', ARGV[3])
redis.call('PEXPIRE', KEYS[2], ARGV[6])

local position = epoch .. '-' .. offset .. '-' .. ARGV[3]
if KEYS[4] then
  redis.call('SET', KEYS[4], position .. (#members > 0 and '+' or ''), 'PX', ARGV[7])
end
redis.call('PUBLISH', KEYS[1], position .. '-' .. before .. '\n' .. ARGV[1])
return {position, members}
