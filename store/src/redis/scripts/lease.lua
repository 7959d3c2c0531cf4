#!lua flags=allow-oom
-- Acquires or renews a lease: its epoch, or nothing while another one holds it.
local leases, lease, holder, ttl_ms = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local stored = redis.call('HGET', leases, lease) or '0:0:'
local epoch, ends, held_by = string.match(stored, '^(%d+):(%d+):(.*)$')
epoch = tonumber(epoch)
if held_by ~= holder then
  if held_by ~= '' and tonumber(ends) > now then
    return false
  end
  epoch = epoch + 1
end
epoch = string.format('%.0f', epoch)
redis.call('HSET', leases, lease, epoch .. ':' .. string.format('%.0f', now + ttl_ms) .. ':' .. holder)
return epoch
