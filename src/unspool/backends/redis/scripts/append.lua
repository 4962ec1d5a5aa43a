-- The hot path: fence, log and hint in three steps of one script.
-- KEYS: fence, log, job, channel. ARGV: the fence as it must be, as it will be, entry id, entry, what is published where the
-- entry is too large for that, ms that running data is kept when the lease is to be renewed, how many of the following are
-- fields and values to set; the rest are fields to clear.
local found = redis.call('SET', KEYS[1], ARGV[2], 'XX', 'GET', 'KEEPTTL')
if found ~= ARGV[1] then
  if not found then return -1 end
  redis.call('SET', KEYS[1], found, 'KEEPTTL')
  if found ~= ARGV[2] then return -1 end
  local last = redis.call('XREVRANGE', KEYS[2], '+', '-', 'COUNT', 1)[1]
  return last and last[2][2] == ARGV[4] and 0 or -1 -- the answer to the first try was lost
end
if ARGV[4] ~= '' then
  redis.call('XADD', KEYS[2], ARGV[3], 'e', ARGV[4])
  redis.call('PUBLISH', KEYS[4], ARGV[5] ~= '' and ARGV[5] or ARGV[4])
end
local sets = tonumber(ARGV[7])
if sets > 0 then redis.call('HSET', KEYS[3], unpack(ARGV, 8, 7 + sets)) end
if #ARGV > 7 + sets then redis.call('HDEL', KEYS[3], unpack(ARGV, 8 + sets)) end
if ARGV[6] == '' then return 0 end
local lease, time = tonumber(redis.call('HGET', KEYS[3], 'lease') or '0'), redis.call('TIME')
local now = tonumber(time[1]) + tonumber(time[2]) / 1e6
redis.call('HSET', KEYS[3], 'until', string.format('%.6f', now + lease), 'active', string.format('%.6f', now))
local keep = math.max(tonumber(ARGV[6]), lease * 10000) -- as renewals do
for index = 1, 3 do redis.call('PEXPIRE', KEYS[index], string.format('%d', keep)) end
return math.floor(lease * 1000)
