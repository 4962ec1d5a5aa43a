-- KEYS: stream. ARGV: number, stream id, channels of replicas, epoch, replica, lease in seconds, 1 for expired ones only.
-- Answers when the new lease ends, or nothing.
local key = KEYS[1] .. ':' .. ARGV[1]
local epoch, last, sealed = fence(key)
if epoch ~= ARGV[4] or sealed then return false end
local state, time = redis.call('HMGET', key, 'until', 'replica'), now()
if ARGV[7] == '1' and tonumber(state[1]) > time then return false end
local ends = seconds(time + tonumber(ARGV[6]))
redis.call('SET', key .. ':fence', string.format('%d', epoch + 1) .. ':' .. last, 'KEEPTTL')
redis.call('HSET', key, 'replica', ARGV[5], 'lease', ARGV[6], 'until', ends)
if state[2] ~= ARGV[5] then call_owner(ARGV[3], state[2], ARGV[2], ARGV[1]) end
return ends
