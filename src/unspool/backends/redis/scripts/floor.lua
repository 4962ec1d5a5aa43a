-- The floor of a database: a number and a random mark, which tells it from one that was made after the database was emptied.
-- Nothing is written where nothing has changed. KEYS: floor, the last note of the caller. ARGV: the floor as the caller knows
-- it, or nothing; the note that it knows to be there; the floor to set where the database has lost either; the note to make;
-- ms that the floor is kept, that a note is.
local function number(mark)
  return tonumber(string.match(mark, '^%d+'))
end

local found, kept = redis.call('GET', KEYS[1]), tonumber(redis.call('GET', KEYS[2]) or '0')
local known = ARGV[1] ~= '' and ARGV[1]
if not (found and known and number(found) > number(known)) then -- else somebody has raised it meanwhile
  if not found or known and found ~= known or kept < tonumber(ARGV[2]) then found = ARGV[3] end
end
if found == ARGV[3] or tonumber(ARGV[4]) > kept then
  redis.call('SET', KEYS[1], found, 'PX', ARGV[5])
  redis.call('SET', KEYS[2], ARGV[4], 'PX', ARGV[6])
end
return found
