#!lua flags=allow-oom
-- The leases under a prefix that are held: name and holder of each. Those that nobody holds are forgotten where they stand under
-- the second prefix, if that is not empty.
local leases, prefix, passing = KEYS[1], ARGV[1], ARGV[2]
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function is_under(name, start)
  return string.sub(name, 1, #start) == start
end
local all, held = redis.call('HGETALL', leases), {}
for i = 1, #all, 2 do
  local name = all[i]
  if is_under(name, prefix) then
    local owner, _, ends = unpack(cmsgpack.unpack(all[i + 1]))
    if owner ~= '' and now < ends then
      held[#held + 1] = name
      held[#held + 1] = owner
    elseif passing ~= '' and is_under(name, passing) then
      redis.call('HDEL', leases, name)
    end
  end
end
return held
