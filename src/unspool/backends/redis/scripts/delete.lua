-- KEYS: stream. ARGV: number, log, seconds that a completed one is kept, that another is. Answers whether it is gone by this.
local stream, number = KEYS[1], ARGV[1]
local key = stream .. ':' .. number
local state = redis.call('HMGET', key, 'status', 'settled')
if not state[1] then
  forget(stream, number)
  return -1
end
if ACTIVE[state[1]] or is_other(key, ARGV[2]) then return 0 end
local kept = tonumber(state[1] == 'complete' and ARGV[3] or ARGV[4])
if now() - tonumber(state[2]) < kept then return 0 end
redis.call('DEL', key, key .. ':fence', key .. ':log', key .. ':fold', key .. ':pack')
forget(stream, number)
return 1
