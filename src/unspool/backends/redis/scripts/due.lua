-- Members of an index whose time has come, with their scores, after the time as it now is. KEYS: index. ARGV: the score from
-- which on they are wanted, seconds before now, how many.
local time = now()
local found = redis.call('ZRANGEBYSCORE', KEYS[1], ARGV[1], seconds(time - tonumber(ARGV[2])), 'WITHSCORES', 'LIMIT', 0, ARGV[3])
table.insert(found, 1, seconds(time))
return found
