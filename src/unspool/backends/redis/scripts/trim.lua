-- KEYS: stream. ARGV: number, epoch, offset up to which. Answers 1, 0 for a stale epoch, -1 where no checkpoint covers it.
local key = KEYS[1] .. ':' .. ARGV[1]
local epoch, _, sealed = fence(key)
if epoch ~= ARGV[2] or sealed then return 0 end
local covered = string.match(redis.call('GETRANGE', key .. ':fold', 0, 20), '^%d+')
if not covered or tonumber(covered) < tonumber(ARGV[3]) then return -1 end
local first = string.format('%d', ARGV[3] + 1)
if tonumber(first) <= tonumber(redis.call('HGET', key, 'first') or '1') then return 1 end
redis.call('XTRIM', key .. ':log', 'MINID', first .. '-0')
redis.call('HSET', key, 'first', first)
return 1
