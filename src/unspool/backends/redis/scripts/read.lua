-- KEYS: stream. ARGV: number, offset after which, records at least (where there are), bytes at most (about).
-- Answers the last number used, the oldest offset that is kept, the fence, a packed log or nothing, then entries.
local key = KEYS[1] .. ':' .. ARGV[1]
local used = redis.call('HGET', KEYS[1], 'used')
local state = redis.call('GET', key .. ':fence')
if not state then return { used, false, false, false } end
local after, limit, room = tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local first = redis.call('HGET', key, 'first') or '1'
if string.find(state, 'sealed', 1, true) then
  local packed = redis.call('GET', key .. ':pack')
  if packed then return { used, first, state, packed } end
end
local answer = { used, first, state, false }
after = math.max(after, tonumber(first) - 1)
local from = after + 1
repeat
  local found = redis.call('XRANGE', key .. ':log', string.format('%d-0', from), '+', 'COUNT', 32)
  for _, item in ipairs(found) do
    answer[#answer + 1] = item[2][2]
    from = tonumber(string.match(item[1], '^%d+')) + 1
    room = room - #item[2][2]
    if from > after + limit or room <= 0 then return answer end
  end
until #found < 32
return answer
