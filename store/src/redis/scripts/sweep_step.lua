#!lua flags=allow-oom
-- Looks at some states and row records and removes what expired before an instant: the next cursor and how many went.
local page = redis.call('SCAN', ARGV[1], 'MATCH', ARGV[2], 'COUNT', ARGV[3])
local now, removed = tonumber(ARGV[4]), 0
for _, key in ipairs(page[2]) do
  local head = redis.call('GETRANGE', key, 8, 15)
  if #head == 8 and struct.unpack('>i8', head) < now then
    removed = removed + redis.call('DEL', key)
  end
end
return { page[1], removed }
