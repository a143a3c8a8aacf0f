-- What all scripts begin with.
--
-- KEYS are the locks' own keys. ARGV[1] comes back first in the answer, so that an answer to another request is noticed; ARGV[2] is
-- what the names of the managers' channels begin with; then a fixed number of arguments for each lock, `side` first: "{tag}%", with
-- a tag of the lock's slot, which its side keys begin with.
--
-- Nothing is rolled back when a command fails, so what may be refused comes before what must not be alone. When memory is short,
-- only the first write of a script is refused: what has to work then begins with one that is not (DEL, PEXPIRE, ZREM).

local CLAIM = 2000    -- ms that a hold handed over lives unless it is confirmed
local LIFE = 1900     -- ms that a place in the queue lives unless it is asked for
local REST = 10000    -- ms that a queue's keys live without a change
local WEEK = 604800   -- s that the fence lives
local SHARED = 'shared:1:'
local LARGEST = 4096   -- bytes of a lock's value that are read; no lock of ours has so many

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
-- As text: Lua would print so many digits as 1.7952669796831e+15.
local micros = time[1] .. ('00000' .. time[2]):sub(-6)

local function is_shared(token)
  return token:sub(35, 35) == 's'
end

-- A number that is greater than `last` and no less than the server's time in microseconds.
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

-- Tells the manager of a token. Who is not told, because an ACL denies it for example, looks by himself.
local function tell(token, word, more)
  redis.pcall('PUBLISH', ARGV[2] .. token:sub(1, 16), word .. token:sub(18, 33) .. (more or ''))
end

-- Wakes who waits by BLPOP for a lock that was freed. Only there if it is wanted: signal.lua.
local signal

-- The value of a lock, cut where no value of ours goes on. nil if there is none, or if the key is no string.
local function value_of(lock)
  local value = redis.pcall('GETRANGE', lock, 0, LARGEST - 1)
  if type(value) ~= 'string' or (value == '' and redis.call('EXISTS', lock) == 0) then return nil end
  return value
end

local function period_of(held)
  return held and held:sub(1, #SHARED) == SHARED and held:sub(#SHARED + 1) or nil
end

-- Names the claim that a token is of, to who may know it but not act for it.
local function claim_of(token)
  return redis.sha1hex(token)
end

-- Lets a key live for `ms` at least.
local function prolong(key, ms)
  redis.call('PEXPIRE', key, math.max(ms, redis.call('PTTL', key)))
end

-- Lets a reader in for `ms`.
local function share(lock, readers, token, ms)
  prolong(lock, ms)
  redis.call('ZADD', readers, now + ms, token)
  prolong(readers, ms)
end

local function leave(queue, lives, token)
  redis.call('ZREM', queue, token)
  redis.call('ZREM', lives, token)
end

-- Who is first in the queue and alive. The dead before him go.
local function first(queue, lives)
  while true do
    local token = redis.call('ZRANGE', queue, 0, 0)[1]
    if not token then return nil end
    local life = redis.call('ZSCORE', lives, token)
    if life and tonumber(life) > now then return token end
    leave(queue, lives, token)
  end
end

-- Gives a lock that is free, or shared in `period`, to those who are first in its queue: one writer, or all readers up to the
-- first writer. They are told, but for `mine`, whose hold lives for `ttl`, and whose epoch is returned if he is among them.
local function admit(lock, side, period, mine, ttl)
  local queue, lives = side .. 'queue:' .. lock, side .. 'lives:' .. lock
  local won
  while true do
    local token = first(queue, lives)
    if not token then break end
    local shared = is_shared(token)
    if period and not shared then break end
    local ms = ttl
    if token ~= mine then ms = math.min(CLAIM, tonumber(token:match('^%x+:%x+:%a%d+:(%d+):')) or CLAIM) end
    local epoch = period
    if not epoch then
      local fence = side .. 'fence:' .. lock
      epoch = next_epoch(fence, redis.call('GET', fence))
    end
    leave(queue, lives, token)
    if shared then
      local readers = side .. 'readers:' .. lock
      if not period then
        -- Nobody of an earlier period comes back.
        redis.call('DEL', readers)
        redis.call('SET', lock, SHARED .. epoch, 'PX', ms)
        period = epoch
      end
      share(lock, readers, token, ms)
    else
      redis.call('SET', lock, token, 'PX', ms)
    end
    if token == mine then won = epoch else tell(token, 'g', epoch) end
    if not shared then break end
  end
  return won
end

-- Calls `work` for each lock with its `count` arguments. The failure of one is no other's.
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
