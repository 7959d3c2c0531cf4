#!lua flags=allow-oom
-- Hands work to a worker: first what others hold for too long, then what nobody had.
local work, worker, limit, abandoned_ms = KEYS[1], ARGV[1], tonumber(ARGV[2]), ARGV[3]
redis.pcall('XGROUP', 'CREATE', work, 'workers', '0', 'MKSTREAM')
local taken = redis.call('XAUTOCLAIM', work, 'workers', worker, abandoned_ms, '0-0', 'COUNT', limit)[2]
if #taken < limit then
  local page = redis.call('XREADGROUP', 'GROUP', 'workers', worker, 'COUNT', limit - #taken, 'STREAMS', work, '>')
  local entries = page and page[1] and page[1][2] or {}
  for i = 1, #entries do
    taken[#taken + 1] = entries[i]
  end
end
return taken
