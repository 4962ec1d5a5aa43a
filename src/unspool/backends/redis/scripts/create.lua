-- KEYS: stream. ARGV: stream id, channels of replicas, owner, token, request id, expected number, replica, lease in
-- seconds, limits, ms that running data is kept, that ended data is, that numbers are, status of a replaced job, channel of
-- the stream, the number above which it is to be by the caller, the same by the database, the
-- first epoch, then fields of the job and their values.
local stream = KEYS[1]
local stream_id, channels, owner, token, request = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local known = redis.call('HMGET', stream, 'owner', 'used', 'token')
local used = tonumber(known[2] or '0')
if known[1] and known[1] ~= owner then return { 'not_found' } end
local made = known[3] == token and job(stream, known[2])
if made then -- the answer to the first try was lost
  local before = redis.call('HGET', stream .. ':' .. known[2], 'before')
  return { 'created', made, before and job(stream, before) }
end
if request ~= '' then
  local number = redis.call('HGET', stream, 'r:' .. request)
  local found = number and job(stream, number)
  if found and holds_request(stream, number) then return { 'attached', found } end
end
if ARGV[6] ~= '' and tonumber(ARGV[6]) ~= used then return { 'conflict', used } end

local number = string.format('%d', math.max(used, tonumber(ARGV[15]), tonumber(ARGV[16])) + 1)
local replaced = false
local before = stream .. ':' .. string.format('%d', used)
local epoch, last = fence(before)
if epoch and ACTIVE[redis.call('HGET', before, 'status')] then
  seal(stream, ARGV[14], string.format('%d', used), epoch, last, ARGV[13], 'replaced', '{"by_generation":' .. number .. '}', ARGV[11])
  call_owner(channels, redis.call('HGET', before, 'replica'), stream_id, used)
  replaced = job(stream, string.format('%d', used))
end

local time = now()
local key = stream .. ':' .. number
redis.call('HSET', stream, 'owner', owner, 'used', number, 'token', token, 'g:' .. number, request)
if request ~= '' then redis.call('HSET', stream, 'r:' .. request, number) end
-- What a database that evicts may have left of one that it has forgotten.
redis.call('DEL', key, key .. ':log', key .. ':fold', key .. ':pack')
redis.call('HSET', key, 'status', 'running', 'owner', owner, 'request', request, 'token', token, 'replica', ARGV[7], 'lease', ARGV[8],
  'until', seconds(time + tonumber(ARGV[8])), 'created', seconds(time), 'active', seconds(time), 'limits', ARGV[9])
if replaced then redis.call('HSET', key, 'before', string.format('%d', used)) end
if #ARGV > 17 then redis.call('HSET', key, unpack(ARGV, 18)) end
redis.call('SET', key .. ':fence', ARGV[17] .. ':0')
expire(key, ARGV[10])
redis.call('PEXPIRE', stream, math.max(tonumber(ARGV[10]), tonumber(ARGV[12]))) -- no shorter than what runs on it
return { 'created', job(stream, number), replaced }
