-- The common beginning of all scripts.
--
-- KEYS are the main keys of locks. ARGV[1] is returned as the first part of the answer, so that the answer to another call is
-- recognized. ARGV[2] is the prefix of the managers' channels. Then there is a fixed number of arguments for each lock, the first of
-- which is `side`, the prefix of its side keys: "{tag}%", with a tag of the lock's slot. A `value` is that of an attempt: manager,
-- attempt, mode, TTL, and the holder's description.
--
-- Nothing is rolled back when a command fails, so a command that may be refused precedes those that must not take effect alone. When
-- memory is short, only the first write of a script is refused: what must work then begins with a write that never is (DEL, PEXPIRE,
-- ZREM).

local HANDOVER = 2000 -- ms: the TTL of a handover until it is confirmed
local LIFE = 1900     -- ms: the TTL of a place in the queue; each request refreshes it
local REST = 10000    -- ms: the TTL of a queue's keys
local WEEK = 604800   -- s: the TTL of the fence
local SHARED = 'shared:1:'
local LARGEST = 4096   -- bytes: the most of a value that is read; ours are shorter

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- As text: Lua prints a number of so many digits as 1.7952669796831e+15.
local micros = time[1] .. ('00000' .. time[2]):sub(-6)

local function is_shared(value)
  return value:sub(35, 35) == 's'
end

-- Returns a number that is greater than `last` and at least the server's time in microseconds.
local function after(last)
  last = tonumber(last)
  if last and last >= tonumber(micros) then return string.format('%.0f', last + 1) end
  return micros
end

local function next_epoch(fence, last)
  local epoch = after(last)
  redis.call('SET', fence, epoch, 'EX', WEEK)
  return epoch
end

-- Sends a message to the manager of an attempt. If that fails, because an ACL denies it for example, the manager finds out by a poll.
local function notify(value, kind, epoch)
  redis.pcall('PUBLISH', ARGV[2] .. value:sub(1, 16), kind .. value:sub(18, 33) .. (epoch or ''))
end

-- Wakes clients that wait for a free lock by BLPOP. Defined by signal.lua, if the options ask for it.
local signal

-- Returns the value of a lock, cut to the length that values of ours have at most. nil if there is none, or if the key is not a
-- string.
local function value_of(lock)
  local held = redis.pcall('GETRANGE', lock, 0, LARGEST - 1)
  if type(held) ~= 'string' or (held == '' and redis.call('EXISTS', lock) == 0) then return nil end
  return held
end

-- Returns the epoch of a sharing period, if the value of a lock is one.
local function period_of(held)
  return held and held:sub(1, #SHARED) == SHARED and held:sub(#SHARED + 1) or nil
end

-- Returns the id of an attempt's claim. It is published, so it must not allow anyone to act for the attempt.
local function claim_of(value)
  return redis.sha1hex(value)
end

-- Extends the TTL of a key to at least `ms`.
local function prolong(key, ms)
  redis.call('PEXPIRE', key, math.max(ms, redis.call('PTTL', key)))
end

-- Makes an attempt a reader for `ms`.
local function share(lock, readers, value, ms)
  prolong(lock, ms)
  redis.call('ZADD', readers, now + ms, value)
  prolong(readers, ms)
end

local function leave(queue, lives, value)
  redis.call('ZREM', queue, value)
  redis.call('ZREM', lives, value)
end

-- Returns the first attempt in the queue that has not expired. Removes the expired ones before it.
local function first(queue, lives)
  while true do
    local value = redis.call('ZRANGE', queue, 0, 0)[1]
    if not value then return nil end
    local life = redis.call('ZSCORE', lives, value)
    if life and tonumber(life) > now then return value end
    leave(queue, lives, value)
  end
end

-- Grants a lock that is free, or shared in `period`, to the first attempts in its queue: one writer, or all readers up to the first
-- writer. Their managers are notified, except for the attempt `mine`, whose TTL is `ttl`, and whose epoch is returned if it was
-- granted.
local function admit(lock, side, period, mine, ttl)
  local queue, lives = side .. 'queue:' .. lock, side .. 'lives:' .. lock
  local won
  while true do
    local value = first(queue, lives)
    if not value then break end
    local shared = is_shared(value)
    if period and not shared then break end
    local ms = ttl
    if value ~= mine then ms = math.min(HANDOVER, tonumber(value:match('^%x+:%x+:%a%d+:(%d+):')) or HANDOVER) end
    local epoch = period
    if not epoch then
      local fence = side .. 'fence:' .. lock
      epoch = next_epoch(fence, redis.call('GET', fence))
    end
    leave(queue, lives, value)
    if shared then
      local readers = side .. 'readers:' .. lock
      if not period then
        -- Readers of an earlier period must not return.
        redis.call('DEL', readers)
        redis.call('SET', lock, SHARED .. epoch, 'PX', ms)
        period = epoch
      end
      share(lock, readers, value, ms)
    else
      redis.call('SET', lock, value, 'PX', ms)
    end
    if value == mine then won = epoch else notify(value, 'g', epoch) end
    if not shared then break end
  end
  return won
end

-- Calls `work` for each lock with its `count` arguments. An error of one does not affect the others.
local function for_each(count, work)
  local answers = { ARGV[1] }
  for number, lock in ipairs(KEYS) do
    local at = 2 + (number - 1) * count
    local done, answer = pcall(work, lock, ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4])
    if not done then answer = 'e' .. tostring(type(answer) == 'table' and answer.err or answer) end
    answers[number + 1] = answer
  end
  return answers
end
