#!lua flags=no-writes,allow-oom
-- The records of an entity's newest decisions, without those that are kept no longer.
local ids = redis.call('LRANGE', KEYS[1], 0, ARGV[1])
local answer = {}
for i = 1, #ids do
  answer[#answer + 1] = redis.call('GET', ARGV[2] .. ids[i]) or nil
end
return answer
