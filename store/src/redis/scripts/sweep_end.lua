#!lua flags=allow-oom
-- Notes that everything before a day is swept.
local swept = redis.call('HGET', KEYS[1], 'swept')
if not swept or tonumber(swept) < tonumber(ARGV[1]) then
  redis.call('HSET', KEYS[1], 'swept', ARGV[1])
end
return 1
