-- Move dead letters back into their queue, the oldest first, until it is full.
--
-- KEYS[1]  the queue
-- KEYS[2]  the dead letters
-- ARGV[1]  how many at most
-- ARGV[2]  capacity of the queue
-- ARGV[3]  the channel for notices to waiting workers
--
-- Returns how many were moved.
local new = redis.call('EXISTS', KEYS[1]) == 0
local room = math.min(ARGV[1], ARGV[2] - redis.call('XLEN', KEYS[1]))
if room <= 0 then
  return 0
end
local letters = redis.call('XRANGE', KEYS[2], '-', '+', 'COUNT', room)
for _, letter in ipairs(letters) do
  redis.call('XDEL', KEYS[2], letter[1])
  redis.call('XADD', KEYS[1], '*', 'p', letter[2][2])
end
if redis.call('XLEN', KEYS[2]) == 0 then
  redis.call('DEL', KEYS[2])
end
if #letters > 0 then
  if new then
    redis.call('XGROUP', 'CREATE', KEYS[1], 'workers', '0')
  end
  redis.call('PUBLISH', ARGV[3], '')
end
return #letters
