-- The last job of a stream, and for how many seconds its lease still lasts. KEYS: stream.
local used = redis.call('HGET', KEYS[1], 'used')
local found = used and job(KEYS[1], used)
if not found then return { false, '0' } end
return { found, seconds(tonumber(redis.call('HGET', KEYS[1] .. ':' .. used, 'until')) - now()) }
