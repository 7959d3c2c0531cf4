#!lua flags=allow-oom
-- Looks at some keys and removes what expired before an instant: the next cursor and how many went.
local page = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local now, kind_at, removed = tonumber(ARGV[4]), tonumber(ARGV[5]) + 1, 0
local function is_over(value)
  return #value >= 8 and struct.unpack('>i8', value) < now
end
for _, key in ipairs(page[2]) do
  if string.sub(key, kind_at, kind_at) == 'e' then
    local groups = redis.call('HGETALL', key)
    for i = 1, #groups, 2 do
      if is_over(groups[i + 1]) then
        removed = removed + redis.call('HDEL', key, groups[i])
      end
    end
  elseif is_over(redis.call('GETRANGE', key, 0, 7)) then
    removed = removed + redis.call('DEL', key)
  end
end
return { page[1], removed }
