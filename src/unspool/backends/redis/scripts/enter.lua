-- Put a member into an index, at a time from now. KEYS: index. ARGV: member, seconds, ms that the index is kept.
redis.call('ZADD', KEYS[1], seconds(now() + tonumber(ARGV[2])), ARGV[1])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
