-- Write to a key, so that whoever tracks it hears of it.
--
-- KEYS[1]  the key
-- ARGV[1]  milliseconds until it is forgotten
--
-- A server without memory left refuses the first write of a script if it takes
-- memory, and none after that. This one frees some.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], '', 'PX', ARGV[1])
return 1
