-- KEYS: stream. ARGV: number, stream id, channels of replicas, epoch, replica, lease in seconds, when the lease
-- ended as the caller saw it, or nothing.
-- Answers when the new lease ends, or nothing.
local key = KEYS[1] .. ':' .. ARGV[1]
local epoch, last, sealed = fence(key)
if sealed or not epoch then return false end
if tonumber(epoch) == tonumber(ARGV[4]) + 1 then -- the answer to the first try was lost, or another replica was faster
  local owner = redis.call('HMGET', key, 'replica', 'until')
  return owner[1] == ARGV[5] and owner[2]
end
if epoch ~= ARGV[4] then return false end
local state = redis.call('HMGET', key, 'until', 'replica')
if ARGV[7] ~= '' and state[1] ~= ARGV[7] then return false end
local ends = seconds(now() + tonumber(ARGV[6]))
redis.call('SET', key .. ':fence', string.format('%d', epoch + 1) .. ':' .. last, 'KEEPTTL')
redis.call('HSET', key, 'replica', ARGV[5], 'lease', ARGV[6], 'until', ends)
if state[2] ~= ARGV[5] then call_owner(ARGV[3], state[2], ARGV[2], ARGV[1]) end
return ends
