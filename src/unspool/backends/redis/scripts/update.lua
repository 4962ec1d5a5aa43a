-- KEYS: stream. ARGV: number, epoch, '=' and the value that `m:extra` must have ('' for any), how many of the following are
-- fields and values to set; the rest are to be cleared.
-- Answers the job, nothing where the epoch is not the current one, or 'changed' where `m:extra` has another value.
local key = KEYS[1] .. ':' .. ARGV[1]
local epoch, _, sealed = fence(key)
if epoch ~= ARGV[2] or sealed then return false end
if ARGV[3] ~= '' and ARGV[3] ~= '=' .. (redis.call('HGET', key, 'm:extra') or '') then return 'changed' end
local sets = tonumber(ARGV[4])
if sets > 0 then redis.call('HSET', key, unpack(ARGV, 5, 4 + sets)) end
if #ARGV > 4 + sets then redis.call('HDEL', key, unpack(ARGV, 5 + sets)) end
return job(KEYS[1], ARGV[1])
