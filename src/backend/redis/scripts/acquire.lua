-- Acquires locks, or joins their queues. Arguments: the two parts of the claim; the TTL in ms; '' not to wait, 0 to wait, or the place
-- that was lost with the manager's life.
--
-- Reads and writes: all keys of the locks but the signal list, clock, lives.
--
-- Answers: g<epoch> granted; b busy; q<ms>:<clock>:<place>:[f][o] queued, with the time until the hold may end (-1: unknown, or not
-- the first in the queue), the clock before this call, f: first in the queue, o: the holder sends no messages; d refused, because the
-- attempt was given up; i the key is not a string; w<key> that key is not ours; e<error>. An m at the end: a step remains to be done.
--
-- A repeated call of a queued attempt keeps its place; one of a holder extends the hold to its full TTL.
local count = (#KEYS - 2) / 5
local answers, none = { ARGV[1] }, false
if count > 1 then
  local sides = {}
  for part = 1, count do
    local key = 2 + (part - 1) * 5
    sides[part * 3 - 2], sides[part * 3 - 1], sides[part * 3] = KEYS[key + 2], KEYS[key + 4], KEYS[key + 5]
  end
  none = call('EXISTS', unpack(sides)) == 0
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
local function join(key, head, rest)
  local lock, queue = KEYS[key + 1], KEYS[key + 2]
  local held = try('GETRANGE', lock, '0', '36')
  if #held ~= 37 or sub(held, 34) ~= ':x2:' or sub(held, 1, 33) == sub(head, 1, 33) then return nil end
  if not none and call('EXISTS', KEYS[key + 4]) == 1 then return nil end
  local newest = try('ZREVRANGE', queue, '0', '0', 'WITHSCORES')
  if newest.err then return nil end
  newest = tonumber(newest[2])
  if newest and newest >= micros then return nil end
  if try('ZADD', queue, 'NX', time_text, head .. rest) ~= 1 then return nil end
  local left, flags = -1, ''
  if not newest then
    -- Its waiters prolong the queue later, and only the first of them polls at the end of the hold.
    call('PEXPIRE', queue, REST)
    left, flags = call('PTTL', lock), 'f'
  end
  return 'q' .. left .. ':' .. told .. ':' .. time_text .. ':' .. flags
end

local key, at = 2, 2
for part = 1, count do
  local head, rest, ttl, wanted, answer = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4], nil
  if byte(head, 35) == EXCLUSIVE and not problem then
    -- Nothing is given before the epoch is written, and none is written for nothing.
    if
      none and (granted or call('EXISTS', KEYS[key + 1]) == 0)
      or not none and call('EXISTS', KEYS[key + 1], KEYS[key + 2], KEYS[key + 4], KEYS[key + 5]) == 0
    then
      if not granted and begun() then
        local done, found = pcall(next_epoch)
        if done then
          epoch, granted = found, 'g' .. found
        else
          answer = failed(found)
        end
      end
      local set = granted and try('SET', KEYS[key + 1], head .. epoch .. rest, 'PX', ttl, 'NX')
      if set then answer = set.ok and granted or failed(set) end
    end
    if not answer and wanted == '0' and begun() then answer = join(key, head, rest) end
  end
  answer = answer or problem
  if not answer then
    long = long or long_way()
    answer = long(part, head .. rest, ttl, wanted)
  end
  answers[part + 1] = answer
  key, at = key + 5, at + 4
end
return answers
