#!lua flags=no-writes,allow-oom
-- The records of an entity's newest decisions.
local ids = redis.call('LRANGE', KEYS[1], 0, ARGV[1])
local answer = {}
for i = 1, #ids do
  answer[i] = redis.call('GET', ARGV[2] .. ids[i] .. ARGV[3])
end
return answer
