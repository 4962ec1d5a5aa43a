-- Take a member out of an index unless it was entered again meanwhile, or so lately that its creation may still be on its
-- way. KEYS: index. ARGV: member, score as it was, seconds that the entry must be old.
local score = redis.call('ZSCORE', KEYS[1], ARGV[1])
if score ~= ARGV[2] or tonumber(score) + tonumber(ARGV[3]) > now() then return 0 end
return redis.call('ZREM', KEYS[1], ARGV[1])
