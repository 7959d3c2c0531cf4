#!lua
-- Acquires or renews a lease (with a time to live), or gives it back (without): its epoch, or 0 when another one holds it.
local leases, name, holder, ttl = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local stored = redis.call('HGET', leases, name)
local owner, epoch, ends = '', 0, 0
if stored then
  owner, epoch, ends = unpack(cmsgpack.unpack(stored))
end
if owner ~= holder and owner ~= '' and now < ends then
  return 0
end
if owner ~= holder then
  if ttl == 0 then
    return 0
  end
  epoch = epoch + 1
end
redis.call('HSET', leases, name, cmsgpack.pack({ ttl > 0 and holder or '', epoch, now + ttl }))
return epoch
