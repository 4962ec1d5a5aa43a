-- What `create` would refuse or attach to, without a trace. KEYS: stream. ARGV: owner, token, request id, expected number.
local stream = KEYS[1]
local known = redis.call('HMGET', stream, 'owner', 'used', 'token')
if known[1] and known[1] ~= ARGV[1] then return { 'not_found' } end
if known[3] == ARGV[2] then return { 'free' } end -- `create` repeats its answer
if ARGV[3] ~= '' then
  local number = redis.call('HGET', stream, 'r:' .. ARGV[3])
  local found = number and job(stream, number)
  if found and holds_request(stream, number) then return { 'attached', found } end
end
local used = tonumber(known[2] or '0')
if ARGV[4] ~= '' and tonumber(ARGV[4]) ~= used then return { 'conflict', used } end
return { 'free' }
