-- The functions of the long way.

local LARGEST, LAST_BYTE = 8192, '8191' -- bytes: the most of a value that is read; ours are shorter
local LONGEST = 86400000 -- ms: the longest TTL
local PERIODS = { shared = 's', limited = 'l' }
local SENTINELS = { s = 'shared:2:', l = 'limited:2:' }

local steps = 256       -- how many dead places and waiters of all locks this call may still remove
local MOST_RUNG = 256   -- how many ears of a lock this call notifies
local alive = {}        -- whether the life of a manager lasts

-- Returns the number that is an epoch or a place, if it is one. Lua counts exactly up to 2^53.
local function whole(text)
  if type(text) ~= 'string' or #text > 16 or not text:find('^%d+$') then return nil end
  local number = tonumber(text)
  if number < 9007199254740992 then return number end
end

-- Reads a side key. One of another type is an error that names it; all are read before anything is written.
local function read(command, key, ...)
  local answer = try(command, key, ...)
  if type(answer) == 'table' and answer.err then
    if answer.err:find('WRONGTYPE', 1, true) then wrong(key) end
    error(answer)
  end
  return answer
end

-- Returns the value of a lock, cut to the length that values of ours have at most; '' if it is not a string, nil if there is none.
local function value_of(key)
  local held = try('GETRANGE', key, '0', LAST_BYTE)
  if type(held) ~= 'string' then
    if not held.err:find('WRONGTYPE', 1, true) then error(held) end
    return ''
  end
  if held == '' and call('EXISTS', key) == 0 then return nil end
  return held
end

-- Returns the mode, TTL and limit of a claim. nil if it has not our shape: anyone may have written it.
local function read_claim(claim)
  local mode, ttl, limit = claim:match(SHAPE)
  ttl, limit = tonumber(ttl), tonumber(limit)
  if not ttl or ttl < 1 or ttl > LONGEST or #claim > LARGEST then return nil end
  if mode == 'l' and not (limit and limit >= 1) then return nil end
  return mode, ttl, limit
end

local function is_alive(manager)
  if alive[manager] == nil then
    local ends = read('ZSCORE', KEYS[2], manager)
    alive[manager] = ends and tonumber(ends) > now or false
  end
  return alive[manager]
end

-- Returns when the last of those who share a lock ends, nil if nobody shares it: apart from a claim, if there is one.
local function last_end(lock, claim)
  local ends = read('ZREVRANGE', lock.readers, '0', claim and '1' or '0', 'WITHSCORES')
  local newest = ends[2]
  if claim and ends[1] == claim then newest = ends[4] end
  newest = newest and tonumber(newest)
  if newest and newest > now then return newest end
end

-- How many share a lock.
local function count(lock)
  lock.count = lock.count or read('ZCOUNT', lock.readers, '(' .. now, '+inf')
  return lock.count
end

-- Reads the value of a lock into its table: `held` is nil if it is free; `mode` and `epoch` are those of a sharing period. A sentinel
-- that nobody shares is a foreign value, or the rest of a period whose side key was deleted: it ends like those.
local function look(lock)
  lock.held = value_of(lock.key)
  if not lock.held then return end
  local word, epoch = lock.held:match('^(%l+):2:(%d+)$')
  local mode = word and PERIODS[word]
  if mode and whole(epoch) and tonumber(epoch) <= micros + DAY then
    lock.ends = last_end(lock)
    if lock.ends then lock.mode, lock.epoch = mode, epoch end
  end
end

-- Sends a message to the manager of a claim. If that fails, because an ACL denies it for example, the manager finds out by a look.
local function notify(claim, kind, epoch)
  try('PUBLISH', ARGV[2] .. claim:sub(1, 16), kind .. claim:sub(18, 33) .. (epoch or ''))
end

-- Returns the first claims in a queue, at most so many: those behind the ears.
local function front(lock, most)
  if most == 1 and not lock.has_ears then
    local first = read('ZRANGE', lock.queue, '0', '0')
    lock.has_ears = first[1] ~= nil and is_ear(first[1])
    if not lock.has_ears then return first end
  end
  return read('ZRANGEBYSCORE', lock.queue, FIRST_PLACE_TEXT, '+inf', 'LIMIT', '0', most)
end

-- Notifies the ears of this kind, and removes them.
local function ring(lock, kind)
  if not lock.has_queue or lock.has_ears == false then return end
  local rung = {}
  -- If the key is not ours nobody listens: an ear is refused then.
  for _, ear in ipairs(try('ZRANGEBYSCORE', lock.queue, '-inf', '(' .. FIRST_PLACE_TEXT)) do
    if sub(ear, 1, 2) == kind and #rung < MOST_RUNG then table.insert(rung, ear) end
  end
  if #rung == 0 then return end
  try('ZREM', lock.queue, unpack(rung))
  for _, ear in ipairs(rung) do
    try('PUBLISH', ARGV[2] .. sub(ear, 3, 18), 'o' .. sub(ear, 20, 35))
  end
  if #rung == MOST_RUNG then more = true end
end

-- Gives a lock to a claim for `ms`: a free one, or one that is shared in the same mode. Returns the epoch.
local function take(lock, mode, claim, ms)
  lock.changed = true
  if mode == 'x' then
    local epoch = next_epoch()
    call('SET', lock.key, sub(claim, 1, 37) .. epoch .. sub(claim, 38), 'PX', ms)
    lock.held = claim
    return epoch
  end
  local ends, epoch = ms, lock.epoch
  if lock.mode then
    ends = math.max(ms, call('PTTL', lock.key))
    call('PEXPIRE', lock.key, ends)
    if mode == 'l' then
      -- Each slot has an epoch of its own. What has expired is removed: a semaphore may be in use without end.
      epoch = next_epoch()
      call('ZREMRANGEBYSCORE', lock.readers, '-inf', now)
    end
  else
    epoch = next_epoch()
    -- Those of an earlier period must not return.
    call('DEL', lock.readers)
    call('SET', lock.key, SENTINELS[mode] .. epoch, 'PX', ms)
    lock.held, lock.mode, lock.epoch, lock.count = claim, mode, epoch, 0
  end
  call('ZADD', lock.readers, now + ms, claim)
  call('PEXPIRE', lock.readers, ends)
  lock.count = lock.count and lock.count + 1
  return epoch
end

-- Returns the first claim in a queue whose manager is alive, and whether the queue is known to have no other before it. Removes the
-- dead ones ahead of it, in steps.
local function first(lock)
  local width = 1
  while steps > 0 do
    local places = front(lock, width)
    local dead, found = {}, nil
    for _, claim in ipairs(places) do
      if is_alive(claim:sub(1, 16)) and read_claim(claim) then
        found = claim
        break
      end
      table.insert(dead, claim)
    end
    if #dead > 0 then call('ZREM', lock.queue, unpack(dead)) end
    steps = steps - #dead
    if found or #places < width then return found, true end
    width = math.min(64, steps)
  end
  more = true
  return nil, false
end

-- Whether a claim of this mode and limit may have a lock, as far as its holders are concerned.
local function fits(lock, mode, limit)
  if not lock.held then return true end
  if lock.mode ~= mode then return false end
  return mode ~= 'l' or count(lock) < limit
end

-- Gives a lock to the first in its queue, as far as it fits, in steps. Their managers are notified, except that of the claim `mine`,
-- whose TTL is `ttl`, and whose epoch is returned if it is among them.
local function admit(lock, mine, ttl)
  local won
  while true do
    local claim = first(lock)
    if not claim then return won end
    local mode, ms, limit = read_claim(claim)
    if not fits(lock, mode, limit) then return won end
    if steps <= 0 then
      more = true
      return won
    end
    steps = steps - 1
    if claim ~= mine then ms = math.min(HANDOVER, ms) else ms = ttl end
    call('ZREM', lock.queue, claim)
    local epoch = take(lock, mode, claim, ms)
    if claim == mine then won = epoch else notify(claim, 'g', epoch) end
    if mode == 'x' then return won end
  end
end

-- The keys of the lock with this number.
local function lock_of(part)
  local count = (#KEYS - 3) / 3
  local at = 3 + part
  return { queue = KEYS[at], key = KEYS[at + count], readers = KEYS[at + 2 * count] }
end

-- Calls `work` for the lock with this number and its arguments, then notifies the ears: a handover is one change. `has_queue`: false if
-- nobody waits for it or listens to it. An error of one does not affect the others.
local function perform(work, part, has_queue, ...)
  more = false
  local lock = lock_of(part)
  lock.has_queue = has_queue
  local done, answer = true, nil
  if not last then done, answer = pcall(begin) end
  if done then done, answer = pcall(work, lock, ...) end
  if lock.changed then ring(lock, 'o:') end
  if lock.joined then ring(lock, 'w:') end
  if not done then answer = failed(answer) end
  if more and type(answer) == 'table' then table.insert(answer, 'm') end
  if more and type(answer) == 'string' then answer = answer .. 'm' end
  return answer
end
