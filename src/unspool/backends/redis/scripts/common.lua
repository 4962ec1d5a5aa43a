-- Shared by the scripts that need it: the loader puts this file before them. One generation has these keys, all in the
-- slot of its stream: {stream}:{n} the job, a hash; :fence "epoch:last", with ":sealed" once it is; :log, a stream whose
-- entry ids are the offsets of their last records; :fold, the checkpoint; :pack, which takes the place of a sealed log.
local EPOCHS = 100000 -- wire.py: an epoch has the mark of its log before it
local ACTIVE = { running = true, requires_action = true }

local function now()
  local time = redis.call('TIME')
  return tonumber(time[1]) + tonumber(time[2]) / 1e6
end

local function seconds(time)
  return string.format('%.6f', time)
end

-- Whether a lease has run out: jobs.is_over.
local function is_over(left, lease)
  return left <= 0 or left > lease * 9 / 8
end

-- Epoch and last offset as strings, and whether the log is sealed; nothing for a generation that is not there, or of which
-- a database that evicts has left one half: the fence or the job.
local function fence(key)
  local found = redis.call('GET', key .. ':fence')
  if not found or redis.call('EXISTS', key) == 0 then return nil end
  local epoch, last, sealed = string.match(found, '^(%d+):(%d+)(.*)$')
  return epoch, last, sealed ~= ''
end

-- Whether a key that has a log names another generation of this number: GenerationKey.is_other.
local function is_other(key, log)
  local token = redis.call('HGET', key, 'token') or ''
  return log ~= '' and token ~= '' and token ~= log
end

local function expire(key, milliseconds)
  for _, part in ipairs({ '', ':fence', ':log', ':fold' }) do
    redis.call('PEXPIRE', key .. part, milliseconds)
  end
end

local function job(stream, number)
  local key = stream .. ':' .. number
  local fields, state = redis.call('HGETALL', key), redis.call('GET', key .. ':fence')
  if #fields == 0 or not state then return false end -- half of it is nothing: a database that evicts has taken the rest
  return { tostring(number), fields, state }
end

-- Forget that a generation was there, and the request id that still names it.
local function forget(stream, number)
  local request = redis.call('HGET', stream, 'g:' .. number)
  redis.call('HDEL', stream, 'g:' .. number)
  if request and redis.call('HGET', stream, 'r:' .. request) == number then
    redis.call('HDEL', stream, 'r:' .. request)
  end
end

-- Whether a start under its request id attaches to a job: Job.holds_request.
local function holds_request(stream, number)
  local key = stream .. ':' .. number
  local state = redis.call('HMGET', key, 'status', 'payload')
  local _, last = fence(key)
  return state[1] ~= 'error' or last ~= '1' or not string.find(state[2], '"retryable":true', 1, true)
end

-- Ask the owner to look at the job record.
local function call_owner(channels, owner, stream_id, number)
  redis.call('PUBLISH', channels .. owner, cjson.encode({ stream_id, tonumber(number) }))
end

-- Write the terminal record, the status and the time in one step, and publish the record to those who follow.
local function seal(stream, channel, number, epoch, last, status, kind, payload, keep)
  local key = stream .. ':' .. number
  local offset = string.format('%d', last + 1)
  local mark = string.format('%d', math.floor(tonumber(epoch) / EPOCHS))
  local entry = '[' .. number .. ',' .. offset .. ',[["' .. kind .. '",' .. payload .. ']],' .. mark .. ']'
  redis.call('XADD', key .. ':log', offset .. '-0', 'e', entry)
  redis.call('SET', key .. ':fence', epoch .. ':' .. offset .. ':sealed')
  redis.call('HSET', key, 'status', status, 'settled', seconds(now()), 'kind', kind, 'payload', payload)
  expire(key, keep)
  redis.call('PUBLISH', channel, entry)
end
