#!lua
-- Registers a bundle, unless another hash stands under its name.
local stored = redis.call('HGET', KEYS[1], ARGV[1])
if stored and cjson.decode(stored).hash ~= ARGV[3] then
  return stored
end
redis.call('HSET', KEYS[1], ARGV[1], ARGV[2])
return false
