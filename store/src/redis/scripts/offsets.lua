#!lua flags=allow-oom
-- A source's identity, taken over while nothing binds it, with all offsets.
local sources, offsets = KEYS[1], KEYS[2]
local source, incarnation = ARGV[1], ARGV[2]
local stored = redis.call('HGET', sources, source)
local all = redis.call('HGETALL', offsets)
local is_bound = false
for i = 1, #all, 2 do
  if string.sub(all[i], string.find(all[i], ':', 1, true) + 1) == source then
    is_bound = true
  end
end
if stored ~= incarnation and not (stored and is_bound) then
  redis.call('HSET', sources, source, incarnation)
  stored = incarnation
end
return { stored, all }
