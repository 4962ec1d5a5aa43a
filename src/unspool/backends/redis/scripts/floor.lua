-- The floor of a database: a number and a random mark, which tells it from one that was made after the database was emptied.
-- KEYS: floor. ARGV: the floor as the caller knows it, or nothing; the one to set where the database has lost that; ms that
-- it is kept.
local function number(mark)
  return tonumber(string.match(mark, '^%d+'))
end

local found = redis.call('GET', KEYS[1])
local lost = found and ARGV[1] ~= '' and found ~= ARGV[1] and number(found) <= number(ARGV[1])
if not found or lost then found = ARGV[2] end
redis.call('SET', KEYS[1], found, 'PX', ARGV[3])
return found
