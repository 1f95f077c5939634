-- Take payloads out of sorted sets, lowest scores first, so that a lost reply loses none.
--
-- A batch stays on the server until the next call confirms it. A call whose reply was lost is
-- simply repeated; the script is harmless even if such a call is executed late.
--
-- KEYS[1]  the current batch: its number, then payloads and scores in turn
-- KEYS[2+] the sorted sets
-- ARGV[1]  number of the last batch that has arrived, 0 for none
-- ARGV[2]  how many payloads to take at most
-- ARGV[3]  milliseconds until a batch that is not fetched is deleted
--
-- Returns the number of a batch, and the batch.
local arrived, room = tonumber(ARGV[1]), tonumber(ARGV[2])
local number = tonumber(redis.call('LINDEX', KEYS[1], 0) or arrived)
if number <= arrived then
  redis.call('DEL', KEYS[1])
  number = arrived
  local batch = {}
  for i = 2, #KEYS do
    if room > 0 then
      for _, value in ipairs(redis.call('ZPOPMIN', KEYS[i], room)) do
        batch[#batch + 1] = value
      end
      room = tonumber(ARGV[2]) - #batch / 2
    end
  end
  if #batch > 0 then
    number = arrived + 1
  end
  redis.call('RPUSH', KEYS[1], number, unpack(batch))
end
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return redis.call('LRANGE', KEYS[1], 0, -1)
