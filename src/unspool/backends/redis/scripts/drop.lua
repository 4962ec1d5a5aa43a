-- Take a member out of an index unless it was entered anew meanwhile. KEYS: index. ARGV: member, score as it was.
if redis.call('ZSCORE', KEYS[1], ARGV[1]) == ARGV[2] then return redis.call('ZREM', KEYS[1], ARGV[1]) end
return 0
