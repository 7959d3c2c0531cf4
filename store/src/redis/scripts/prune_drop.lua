#!lua flags=allow-oom
-- Removes states that are still those of a stamp: pairs of key and stamp; how many went.
local removed = 0
for at = 1, #ARGV, 2 do
  if redis.call('GETRANGE', ARGV[at], 8, 15) == ARGV[at + 1] then
    removed = removed + redis.call('DEL', ARGV[at])
  end
end
return removed
