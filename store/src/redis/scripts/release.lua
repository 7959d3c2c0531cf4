#!lua flags=allow-oom
-- Gives a lease up, if it is this holder's. Its epoch stays, so that the next one is higher.
local stored = redis.call('HGET', KEYS[1], ARGV[1]) or '0:0:'
local epoch, _, held_by = string.match(stored, '^(%d+):(%d+):(.*)$')
if held_by ~= ARGV[2] then
  return 0
end
redis.call('HSET', KEYS[1], ARGV[1], epoch .. ':0:')
return 1
