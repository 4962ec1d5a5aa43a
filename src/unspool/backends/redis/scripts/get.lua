-- KEYS: stream. ARGV: number, or nothing for the last one. Answers the last number used and the job, where it is there.
local used = redis.call('HGET', KEYS[1], 'used')
if not used then return { false, false } end
return { used, job(KEYS[1], ARGV[1] ~= '' and ARGV[1] or used) }
