-- All jobs of a stream, whose dead entries are forgotten. KEYS: stream.
local found = {}
for _, field in ipairs(redis.call('HKEYS', KEYS[1])) do
  local number = string.match(field, '^g:(%d+)$')
  if number then
    local one = job(KEYS[1], number)
    if one then found[#found + 1] = one else forget(KEYS[1], number) end
  end
end
return found
