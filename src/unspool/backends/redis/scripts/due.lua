-- Members of an index whose time has come, with their scores. KEYS: index. ARGV: seconds before now, how many.
return redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', seconds(now() - tonumber(ARGV[1])), 'WITHSCORES', 'LIMIT', 0, ARGV[2])
