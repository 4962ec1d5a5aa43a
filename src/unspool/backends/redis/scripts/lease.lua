-- The last job of a stream, and for how many seconds its lease still lasts. KEYS: stream.
local used = redis.call('HGET', KEYS[1], 'used')
local found = used and job(KEYS[1], used)
if not found then return { false, '0' } end
local key = KEYS[1] .. ':' .. used
local state = redis.call('HMGET', key, 'status', 'until')
local left = tonumber(state[2]) - now()
-- Changes nothing, and fails where nothing can be written: then its owner could not renew, and may well be alive.
if left <= 0 and ACTIVE[state[1]] then redis.call('HSET', key, 'until', state[2]) end
return { found, seconds(left) }
