-- Leases of these members were renewed. KEYS: index. ARGV: seconds, ms that the index is kept, members.
local ends, pairs_ = seconds(now() + tonumber(ARGV[1])), {}
for index = 3, #ARGV do
  pairs_[#pairs_ + 1] = ends
  pairs_[#pairs_ + 1] = ARGV[index]
  if #pairs_ == 1000 or index == #ARGV then
    redis.call('ZADD', KEYS[1], unpack(pairs_))
    pairs_ = {}
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return 1
