-- Members of an index whose time has come, with their scores, after the time as it now is. KEYS: index. ARGV: seconds before
-- now, how many at most.
local time = now()
local found = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', seconds(time - tonumber(ARGV[1])), 'WITHSCORES', 'LIMIT', 0, ARGV[2])
table.insert(found, 1, seconds(time))
return found
