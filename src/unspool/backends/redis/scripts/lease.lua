-- The last job of a stream, for how many seconds its lease still lasts (0 for one that is over), and the time as it now is.
-- KEYS: stream.
local time = now()
local used = redis.call('HGET', KEYS[1], 'used')
local found = used and job(KEYS[1], used)
if not found then return { false, '0', seconds(time) } end
local key = KEYS[1] .. ':' .. used
local state = redis.call('HMGET', key, 'status', 'until', 'lease')
local left = tonumber(state[2]) - time
if is_over(left, tonumber(state[3])) then
  left = 0
  -- Changes nothing, and fails where nothing can be written: then its owner could not renew, and may well be alive.
  if ACTIVE[state[1]] then redis.call('HSET', key, 'until', state[2]) end
end
return { found, seconds(left), seconds(time) }
