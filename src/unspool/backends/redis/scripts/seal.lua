-- KEYS: stream. ARGV: number, epoch, status, kind, payload, ms that ended data is kept, channel of the stream,
-- when the lease ended as the caller saw it, or nothing.
-- Answers the last number used, the job, and whether it was sealed by this call: 1, 0, or -1 for a stale epoch.
local stream, number = KEYS[1], ARGV[1]
local used = redis.call('HGET', stream, 'used')
local epoch, last, sealed = fence(stream .. ':' .. number)
if not epoch then return { used, false, 0 } end
if sealed then return { used, job(stream, number), 0 } end
if epoch ~= ARGV[2] then return { used, job(stream, number), -1 } end
if ARGV[8] ~= '' and redis.call('HGET', stream .. ':' .. number, 'until') ~= ARGV[8] then
  return { used, job(stream, number), -1 }
end
seal(stream, ARGV[7], number, epoch, last, ARGV[3], ARGV[4], ARGV[5], ARGV[6])
return { used, job(stream, number), 1 }
