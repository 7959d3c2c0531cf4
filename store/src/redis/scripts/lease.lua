#!lua flags=allow-oom
-- Acquires or renews leases (with a time to live), or gives them back (without): the epoch of each, 0 where another one holds it. A new epoch
-- is above the third argument, and so is that of a holder whose own one is below it.
local leases, holder, ttl, least = KEYS[1], ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local function ask(name)
  local stored = redis.call('HGET', leases, name)
  local owner, epoch, ends = '', 0, 0
  if stored then
    owner, epoch, ends = unpack(cmsgpack.unpack(stored))
  end
  if owner ~= holder and ((owner ~= '' and now < ends) or ttl == 0) then
    return 0
  end
  if owner ~= holder or epoch < least then
    -- A server that did not hand it on may have given out more than is known here.
    epoch = math.max(epoch + 1, now, least + 1)
  end
  redis.call('HSET', leases, name, cmsgpack.pack({ ttl > 0 and holder or '', epoch, now + ttl }))
  return epoch
end
local epochs = {}
for i = 4, #ARGV do
  epochs[#epochs + 1] = ask(ARGV[i])
end
return epochs
