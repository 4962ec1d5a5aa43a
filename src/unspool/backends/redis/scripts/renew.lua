-- KEYS: stream. ARGV: number, epoch, replica, lease in seconds, ms that running data is kept, that numbers are.
-- Answers whether the lease is held, and the abort that was asked for.
local key = KEYS[1] .. ':' .. ARGV[1]
local epoch, _, sealed = fence(key)
local state = redis.call('HMGET', key, 'replica', 'abort')
if epoch ~= ARGV[2] or sealed or state[1] ~= ARGV[3] then return { 0, state[2] } end
redis.call('HSET', key, 'until', seconds(now() + tonumber(ARGV[4])), 'lease', ARGV[4])
expire(key, ARGV[5])
redis.call('PEXPIRE', KEYS[1], math.max(tonumber(ARGV[5]), tonumber(ARGV[6])))
return { 1, state[2] }
