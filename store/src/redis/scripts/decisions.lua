#!lua flags=no-writes,allow-oom
-- A page of the decision log: ids and records.
local page = redis.call('XRANGE', KEYS[1], ARGV[1], '+', 'COUNT', ARGV[2])
local answer = {}
for i = 1, #page do
  answer[2 * i - 1] = page[i][1]
  answer[2 * i] = redis.call('GET', ARGV[3] .. page[i][2][2])
end
return answer
