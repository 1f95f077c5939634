-- Delete every key with a prefix.
--
-- ARGV[1]  the prefix as a glob
--
-- In steps, because unpack() takes a limited number of values.
local keys = redis.call('KEYS', ARGV[1])
for i = 1, #keys, 5000 do
  redis.call('DEL', unpack(keys, i, math.min(i + 4999, #keys)))
end
return #keys
