-- The floor of a database: a number and a random mark, which tells it from one that was made after the database was emptied.
-- It lies in one hash with the last note of each process, "number@time", so that no half of it is ever found while a cluster
-- moves its slot. Nothing is written where nothing has changed. KEYS: the hash. ARGV: field of the caller's notes; the floor as
-- the caller knows it, or nothing; the note that it knows to be there; the floor to set where the database has lost either;
-- the note to make; ms that the hash is kept, seconds that a note is.
local function number(mark)
  return tonumber(string.match(mark, '^%d+'))
end

local state = redis.call('HMGET', KEYS[1], 'floor', ARGV[1])
local found, kept = state[1], state[2] and number(state[2]) or 0
local known = ARGV[2] ~= '' and ARGV[2]
if not (found and known and number(found) > number(known)) then -- else another process has raised it meanwhile
  if not found or known and found ~= known or kept < tonumber(ARGV[3]) then found = ARGV[4] end
end
if found == ARGV[4] or tonumber(ARGV[5]) > kept then
  local time = math.floor(now())
  redis.call('HSET', KEYS[1], 'floor', found, ARGV[1], ARGV[5] .. '@' .. time)
  redis.call('PEXPIRE', KEYS[1], ARGV[6])
  if not state[2] then -- a new process: those that ended long ago are forgotten
    local all = redis.call('HGETALL', KEYS[1])
    for index = 1, #all, 2 do
      local noted = string.match(all[index + 1], '@(%d+)$')
      if noted and time - noted > tonumber(ARGV[7]) then redis.call('HDEL', KEYS[1], all[index]) end
    end
  end
end
return found
