#!lua flags=no-writes,allow-oom
-- A page of the outbox behind a number: numbers and intents.
local page = redis.call('ZRANGE', KEYS[1], '(' .. ARGV[1], '+inf', 'BYSCORE', 'LIMIT', 0, ARGV[2], 'WITHSCORES')
local answer = {}
for i = 1, #page, 2 do
  answer[i] = page[i + 1]
  answer[i + 1] = redis.call('HGET', KEYS[2], page[i])
end
return answer
