-- Replace the log of a sealed generation by a packed copy, and forget its checkpoint, unless that stands for records which
-- were trimmed. KEYS: stream. ARGV: number, last offset, the copy.
local key = KEYS[1] .. ':' .. ARGV[1]
local _, last, sealed = fence(key)
if not sealed or last ~= ARGV[2] or redis.call('EXISTS', key .. ':log') == 0 then return 0 end
redis.call('SET', key .. ':pack', ARGV[3], 'PX', math.max(redis.call('PTTL', key), 1))
redis.call('DEL', key .. ':log')
if not redis.call('HGET', key, 'first') then redis.call('DEL', key .. ':fold') end
return 1
