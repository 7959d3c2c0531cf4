#!lua flags=no-writes,allow-oom
-- Looks at some keys of a pattern: the next cursor, then each key with its value.
local page = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local answer = { page[1] }
for _, key in ipairs(page[2]) do
  answer[#answer + 1] = key
  answer[#answer + 1] = redis.call('GET', key)
end
return answer
