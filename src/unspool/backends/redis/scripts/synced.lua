-- KEYS: stream. ARGV: number, log, 1 or 0. Answers the last number used, and whether the job is there.
local key = KEYS[1] .. ':' .. ARGV[1]
local there = is_other(key, ARGV[2]) and 0 or redis.call('EXISTS', key)
if there == 1 then redis.call('HSET', key, 'synced', ARGV[3]) end
return { redis.call('HGET', KEYS[1], 'used'), there }
