-- KEYS: stream. ARGV: number, epoch, offset, state, ms that running data is kept. Answers whether it was kept.
local key = KEYS[1] .. ':' .. ARGV[1]
local epoch, _, sealed = fence(key)
if epoch ~= ARGV[2] or sealed then return 0 end
redis.call('SET', key .. ':fold', ARGV[3] .. ':' .. ARGV[4], 'PX', ARGV[5])
return 1
