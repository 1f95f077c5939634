-- Write to a key, so that the server notifies the connection that tracks it.
--
-- KEYS[1]  the key
-- ARGV[1]  milliseconds until it is deleted
--
-- A server without free memory refuses a script whose first write needs memory, and no
-- later writes. DEL needs none.
redis.call('DEL', KEYS[1])
redis.call('SET', KEYS[1], '', 'PX', ARGV[1])
return 1
