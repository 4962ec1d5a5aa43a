-- KEYS: stream. ARGV: number, log, stream id, channels of replicas, by, reason as JSON. Answers as get.lua does.
local stream, number = KEYS[1], ARGV[1]
local key = stream .. ':' .. number
local state = redis.call('HMGET', key, 'status', 'abort', 'replica')
if ACTIVE[state[1]] and not is_other(key, ARGV[2]) then
  if not state[2] then
    redis.call('HSET', key, 'abort', '[' .. ARGV[5] .. ',' .. ARGV[6] .. ',' .. seconds(now()) .. ']')
  end
  call_owner(ARGV[4], state[3], ARGV[3], number)
end
return { redis.call('HGET', stream, 'used'), job(stream, number) }
