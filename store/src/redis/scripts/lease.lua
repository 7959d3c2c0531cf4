#!lua flags=allow-oom
-- Acquires or renews leases (with a time to live), or gives them back (without): the epoch of each, 0 where another one holds it.
local leases, holder, ttl = KEYS[1], ARGV[1], tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function ask(name)
  local stored = redis.call('HGET', leases, name)
  local owner, epoch, ends = '', 0, 0
  if stored then
    owner, epoch, ends = unpack(cmsgpack.unpack(stored))
  end
  if owner ~= holder then
    if (owner ~= '' and now < ends) or ttl == 0 then
      return 0
    end
    epoch = epoch + 1
  end
  redis.call('HSET', leases, name, cmsgpack.pack({ ttl > 0 and holder or '', epoch, now + ttl }))
  return epoch
end
local epochs = {}
for i = 3, #ARGV do
  epochs[#epochs + 1] = ask(ARGV[i])
end
return epochs
