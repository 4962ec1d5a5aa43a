-- Replace the log of a sealed generation by a packed copy, and forget its checkpoint. KEYS: stream. ARGV: number, last offset,
-- the copy.
local key = KEYS[1] .. ':' .. ARGV[1]
local _, last, sealed = fence(key)
if not sealed or last ~= ARGV[2] or redis.call('EXISTS', key .. ':log') == 0 then return 0 end
redis.call('SET', key .. ':pack', ARGV[3], 'PX', math.max(redis.call('PTTL', key), 1))
redis.call('DEL', key .. ':log', key .. ':fold')
return 1
