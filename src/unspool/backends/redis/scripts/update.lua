-- KEYS: stream. ARGV: number, epoch, how many of the following are fields and values to set; the rest are to be cleared.
-- Answers the job, or nothing where the epoch is not the current one.
local key = KEYS[1] .. ':' .. ARGV[1]
local epoch, _, sealed = fence(key)
if epoch ~= ARGV[2] or sealed then return false end
local sets = tonumber(ARGV[3])
if sets > 0 then redis.call('HSET', key, unpack(ARGV, 4, 3 + sets)) end
if #ARGV > 3 + sets then redis.call('HDEL', key, unpack(ARGV, 4 + sets)) end
return job(KEYS[1], ARGV[1])
