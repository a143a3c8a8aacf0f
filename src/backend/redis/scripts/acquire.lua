-- Acquires locks, or joins their queues. Arguments: the TTL in ms if all claims are exclusive, have this TTL and no place
-- that they want back, else nothing; then for each lock - not to wait, 0 to wait, or the place that was lost with the manager's life; a
-- space; the claim.
--
-- Reads and writes: all keys of the locks but the signal list, clock, lives.
--
-- Answers: g<epoch> granted; b busy; q<ms>:<clock>:<place>:[f][o] queued, with the time until the hold may end (-1: unknown, or not
-- the first in the queue), the clock before this call, f: first in the queue, o: the holder sends no messages; d refused, because the
-- attempt was given up; i the key is not a string; w<key> that key is not ours; e<error>. An m at the end: a step remains to be done.
--
-- A repeated call of a queued attempt keeps its place; one of a holder extends the hold to its full TTL.
local count = (#KEYS - 3) / 3
local queues, locks = 3, 3 + count
-- The TTL, if all claims are alike.
local common = ARGV[3] ~= '' and ARGV[3]
-- How many tombstones and queues there are; of one lock, with the lock.
local found = present or call('EXISTS', unpack(KEYS, 3, locks))
-- Whether this manager has tombstones, and whether there is nothing else; then whether there is a tombstone of each claim.
local buried = found > 0 and call('EXISTS', KEYS[3]) == 1
local quiet, tombstones = found == (buried and 1 or 0), nil
if buried then
  local ids = {}
  for part = 1, count do ids[part] = ARGV[part + 3]:match('^%S+ (.*)'):sub(1, 33) end
  -- Before Redis 6.2, and if the key is not ours, the long way sees to it.
  tombstones = try('ZMSCORE', KEYS[3], unpack(ids))
end

-- One epoch is enough for what is free: the long way takes another one for each grant.
local epoch, granted, long
-- The answer to all that need the clock, if it cannot be read.
local problem

-- Whether the time and the clock are known.
local function begun()
  if last then return true end
  local done, found = pcall(begin)
  if not done then problem = failed(found) end
  return done
end

-- Joins the queue of a lock that another exclusive claim holds. nil if the long way has to see to it.
local function join(lock, queue, head, rest)
  local held = try('GETRANGE', lock, '0', '36')
  if #held ~= 37 or sub(held, 34) ~= ':x2:' or sub(held, 1, 33) == sub(head, 1, 33) then return nil end
  local newest = try('ZREVRANGE', queue, '0', '0', 'WITHSCORES')
  -- Ears are notified by the long way. If somebody waits, there is none that listens for waiters.
  if newest.err or newest[1] and is_ear(newest[1]) then return nil end
  newest = tonumber(newest[2])
  if newest and newest >= micros then return nil end
  -- Those before may be a dead manager's, which does not prolong the queue.
  if newest then call('PEXPIRE', queue, REST) end
  if try('ZADD', queue, 'NX', time_text, head .. rest) ~= 1 then return nil end
  local left, flags = -1, ''
  if not newest then
    -- Its waiters prolong the queue later, and only the first of them polls at the end of the hold.
    call('PEXPIRE', queue, REST)
    left, flags = call('PTTL', lock), 'f'
  end
  return 'q' .. left .. ':' .. told .. ':' .. time_text .. ':' .. flags
end

local answers = { ARGV[1] }
for part = 1, count do
  local request, answer = ARGV[part + 3], nil
  local lock = KEYS[locks + part]
  if
    (common or byte(request, 2) == 32 and byte(request, 37) == EXCLUSIVE)
    and not problem
    and (not buried or tombstones[part] == false)
  then
    local head, rest = sub(request, 3, 39), sub(request, 40)
    -- Nothing is given before the epoch is written, and none is written for nothing.
    if
      quiet and (present or granted or call('EXISTS', lock) == 0)
      or not quiet and not present and call('EXISTS', lock, KEYS[queues + part]) == 0
    then
      if not granted and begun() then
        local done, found = pcall(next_epoch)
        if done then
          epoch, granted = found, 'g' .. found
        else
          answer = failed(found)
        end
      end
      local ttl = common or rest:match('^:(%d+)')
      local set = granted and try('SET', lock, head .. epoch .. rest, 'PX', ttl, 'NX')
      if set then answer = set.ok and granted or failed(set) end
    end
    if not answer and byte(request, 1) == 48 and begun() then answer = join(lock, KEYS[queues + part], head, rest) end
  end
  answer = answer or problem
  if not answer then
    long = long or long_way()
    answer = long(part, not quiet, request:match('^(%S+) (.*)'))
  end
  answers[part + 1] = answer
end
return table.concat(answers, '\n')
