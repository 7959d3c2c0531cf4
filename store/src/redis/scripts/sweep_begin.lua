#!lua flags=allow-oom
-- Whether there is anything to sweep before a day.
local day = tonumber(ARGV[1])
local marks = redis.call('HMGET', KEYS[1], 'sweep', 'swept', 'late')
if marks[2] and tonumber(marks[2]) >= day and not marks[3] then
  return 0
end
if not marks[1] or tonumber(marks[1]) <= day then
  redis.call('HSET', KEYS[1], 'sweep', ARGV[1])
  redis.call('HDEL', KEYS[1], 'late')
end
return 1
