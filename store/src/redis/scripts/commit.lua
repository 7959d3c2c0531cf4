#!lua
-- One commit: checks everything that is conditional, then writes everything. Arguments are read from front to back;
-- `encode.rs` writes them in the same order.
local WRITER_TTL_MS = 86400000
local RECENT_KEPT, RECENT_SLACK = 100, 200
local PENDING_SLACK = 128

local meta, offsets, writer, lists, intents, outbox, decisions, work, unblocks = unpack(KEYS)
local at = 0
local function take()
  at = at + 1
  return ARGV[at]
end
local function number()
  return tonumber(take())
end
local keep_ms
local function keep(key)
  if keep_ms ~= '' then
    redis.call('PEXPIRE', key, keep_ms)
  end
end
local function stream_id(position)
  return string.format('1-%.0f', position)
end

-- What the writer may ask about again, and what is too old to be answered: tokens below `low` that are not in `kept`. Of
-- what was said of this, the newest turn holds.
local token, turn, low, kept, known, capacity, oldest = take(), number(), number(), take(), number(), number(), take()
local work_capacity = number()
keep_ms = take()
local own = redis.call('HMGET', writer, token, 'turn', 'low', 'kept', 'left')
if own[2] and turn < tonumber(own[2]) then
  turn, low, kept = tonumber(own[2]), tonumber(own[3]), own[4]
end
local function is_settled(field)
  return tonumber(field) < low and not string.find(kept, ',' .. field .. ',', 1, true)
end
if own[1] then
  -- A write, so that WAIT of this connection waits for what it asks about.
  redis.call('PEXPIRE', writer, WRITER_TTL_MS)
  local answer = cmsgpack.unpack(own[1])
  return { 'again', answer[1], answer[2], answer[3] }
end
if is_settled(token) then
  return { 'settled' }
end

local head = redis.call('HMGET', meta, 'sequence', 'decisions', 'intents', 'sweep')
local sequence = tonumber(head[1] or 0)
if sequence < known then
  return { 'rewound', sequence, known }
end

-- Checks. Nothing is written before the last of them.
local moves, moved = {}, {}
for i = 1, number() do
  local field, from, to = take(), take(), take()
  local stored = moved[field] or redis.call('HGET', offsets, field) or ''
  if stored ~= from then
    return { 'fenced', i, stored }
  end
  moved[field] = to
  moves[i] = field
end

for _ = 1, number() do
  local key, stamp = take(), take()
  if redis.call('GETRANGE', key, 8, 15) ~= stamp then
    return { 'conflict' }
  end
end
for _ = 1, number() do
  local field, entry = take(), take()
  if (redis.call('HGET', lists, field) or '') ~= entry then
    return { 'conflict' }
  end
end
local function unblocked(entity)
  return tonumber(redis.call('ZSCORE', unblocks, entity) or nil)
end
for _ = 1, number() do
  local entity, at = take(), take()
  if unblocked(entity) ~= tonumber(at) then
    return { 'conflict' }
  end
end
local pieces = number()
local pieces_first = at + 1
at = at + pieces
if pieces > 0 then
  local waiting = redis.call('XLEN', work)
  if waiting > 0 and waiting + pieces > work_capacity then
    return { 'work_full', work_capacity }
  end
end

local position = tonumber(head[2] or 0)
local first_position = position
local claims, remembered, fresh, taken, wanted, entered = {}, {}, {}, {}, 0, {}
for i = 1, number() do
  local claim = { key = take(), id = take(), record = take() }
  local stored = taken[claim.key] or redis.call('GET', claim.key)
  local count = number()
  claim.entities, claim.entities_end = at + 1, at + count
  at = at + count
  count = number()
  claim.intents, claim.intents_end = at + 1, at + 2 * count
  at = at + 2 * count
  if not stored then
    wanted = wanted + count
    for field = claim.intents, claim.intents_end, 2 do
      entered[ARGV[field]] = true
    end
  end
  count = number()
  claim.lists, claim.lists_end = at + 1, at + 3 * count
  at = at + 3 * count
  if stored then
    claims[i], remembered[i] = stored, -1
  else
    taken[claim.key] = claim.record
    claims[i], remembered[i] = position, position
    position = position + 1
    fresh[#fresh + 1] = claim
  end
end
local acts = {}
for _ = 1, number() do
  local field, json = take(), take()
  if not entered[field] and redis.call('HEXISTS', intents, field) == 0 then
    entered[field] = true
    wanted = wanted + 1
    acts[#acts + 1] = { field, json }
  end
end
local unfinished = redis.call('HLEN', intents)
if wanted > 0 and unfinished > 0 and unfinished + wanted > capacity then
  return { 'full', capacity }
end

-- Plain commands stand at the end: each its number of words, then the words. They go first, so that a key of a foreign
-- type stops the commit before what would not be made the same way again.
local rest = at
at = #ARGV - number()
while at < #ARGV do
  local words = number()
  redis.call(unpack(ARGV, at + 1, at + words))
  at = at + words
end
at = rest + 1

local intent = tonumber(head[3] or 0)
local function enter(field, json)
  intent = intent + 1
  redis.call('ZADD', outbox, string.format('%.0f', intent), field)
  redis.call('HSET', intents, field, json)
end
for i = 1, #fresh do
  local claim = fresh[i]
  redis.call('SET', claim.key, claim.record)
  keep(claim.key)
  redis.call('XADD', decisions, stream_id(first_position + i - 1), 'd', claim.id)
  for entity = claim.entities, claim.entities_end do
    if redis.call('LPUSH', ARGV[entity], claim.id) > RECENT_SLACK then
      redis.call('LTRIM', ARGV[entity], 0, RECENT_KEPT - 1)
    end
    keep(ARGV[entity])
  end
  for field = claim.intents, claim.intents_end, 2 do
    enter(ARGV[field], ARGV[field + 1])
  end
  for field = claim.lists, claim.lists_end, 3 do
    local created = tonumber(ARGV[field + 2])
    local let_go = created and unblocked(string.sub(ARGV[field], 2))
    if not let_go or let_go < created then
      redis.call('HSET', lists, ARGV[field], ARGV[field + 1])
    end
  end
end
for i = 1, #acts do
  enter(acts[i][1], acts[i][2])
end

for _ = 1, number() do
  local field, texts, result = take(), take(), take()
  if redis.call('HDEL', intents, field) == 1 then
    redis.call('ZREM', outbox, field)
    redis.call('RPUSH', texts, result)
    keep(texts)
  end
end

for _ = 1, number() do
  local texts, text = take(), take()
  if not redis.call('LPOS', texts, text) then
    redis.call('RPUSH', texts, text)
    keep(texts)
  end
end

for _ = 1, number() do
  local field, entry = take(), take()
  if entry == '' then
    redis.call('HDEL', lists, field)
  else
    redis.call('HSET', lists, field, entry)
  end
end
for _ = 1, number() do
  local entity, instant, kept = take(), take(), take()
  redis.call('ZADD', unblocks, 'GT', instant, entity)
  redis.call('ZREMRANGEBYSCORE', unblocks, '-inf', '(' .. kept)
end

local changed = { 'sequence', string.format('%.0f', sequence + 1) }
local function change(field, value)
  changed[#changed + 1] = field
  changed[#changed + 1] = value
end

local starts = {}
for i = 1, number() do
  local field, stream, count = take(), take(), number()
  local start = tonumber(redis.call('HGET', meta, field) or 0)
  for entry = 0, count - 1 do
    redis.call('XADD', stream, stream_id(start + entry), 'e', take())
  end
  starts[i] = start
  change(field, string.format('%.0f', start + count))
end

for piece = pieces_first, pieces_first + pieces - 1 do
  redis.call('XADD', work, '*', 'p', ARGV[piece])
end
for _ = 1, number() do
  local id = take()
  redis.call('XACK', work, 'scorers', id)
  redis.call('XDEL', work, id)
end

for i = 1, #moves do
  redis.call('HSET', offsets, moves[i], moved[moves[i]])
end
if #fresh > 0 then
  change('decisions', string.format('%.0f', position))
end
if wanted > 0 then
  change('intents', string.format('%.0f', intent))
end
if oldest ~= '' and head[4] and tonumber(oldest) < tonumber(head[4]) then
  change('late', '1')
end
redis.call('HSET', meta, unpack(changed))

local answer = cmsgpack.pack({ sequence + 1, remembered, starts })
redis.call('HSET', writer, 'turn', string.format('%.0f', turn), 'low', string.format('%.0f', low), 'kept', kept, token, answer)
redis.call('PEXPIRE', writer, WRITER_TTL_MS)
-- Not before there are twice as many as could not be removed the last time: a commit pays for a few fields.
if redis.call('HLEN', writer) > math.max(PENDING_SLACK, 2 * tonumber(own[5] or 0)) then
  local fields = redis.call('HKEYS', writer)
  local left = #fields
  for i = 1, #fields do
    if tonumber(fields[i]) and is_settled(fields[i]) then
      redis.call('HDEL', writer, fields[i])
      left = left - 1
    end
  end
  redis.call('HSET', writer, 'left', left)
end
return { 'done', sequence + 1, claims, starts }
