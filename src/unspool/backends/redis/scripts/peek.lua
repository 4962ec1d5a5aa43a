-- What `create` would refuse or attach to, without a trace. KEYS: stream. ARGV: owner, request id, expected number.
local stream = KEYS[1]
local known = redis.call('HMGET', stream, 'owner', 'used')
if known[1] and known[1] ~= ARGV[1] then return { 'not_found' } end
if ARGV[2] ~= '' then
  local number = redis.call('HGET', stream, 'r:' .. ARGV[2])
  local found = number and job(stream, number)
  if found and holds_request(stream, number) then return { 'attached', found } end
end
local used = tonumber(known[2] or '0')
if ARGV[3] ~= '' and tonumber(ARGV[3]) ~= used then return { 'conflict', used } end
return { 'free' }
