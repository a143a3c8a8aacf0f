-- The common beginning of the scripts that change who holds a lock or waits for it.
--
-- KEYS: clock, lives, and gone of the calling manager; then q2 of each lock, the main key of each, and r2 of each: what has to be absent
-- together is in a row.
-- ARGV: the number of the call, which is returned first, so that the answer to another call is recognized; the prefix of the managers'
-- channels; then one argument for each lock, of acquire and release after one for all of them.
--
-- The answers to the parts of a call, and its number, are lines of one text, if none of them is a list: a reply and an argument of many
-- parts takes the server longer than what is done with them.
--
-- A claim is the value of a lock's key with an empty epoch: manager, attempt, mode, '', TTL, description. It is the member of an
-- attempt in q2 and r2. Attempts are never reused, so the first 33 bytes, manager and attempt, identify it. Its two parts, before and
-- after the epoch, are the first 37 bytes and the rest.
--
-- An ear is a member of q2 before all claims, which is listened with once: its kind, a colon, its manager, a colon, its id. Its score is
-- the time at which it ends. A script that changes who holds a lock sends the message o and the id to the managers of the ears of kind o,
-- and one that adds a waiter to those of kind w, and removes them.
--
-- A script has a short way for a lock that nobody waits for, shares or listens to, and for one whose holder and first waiter are
-- exclusive; and a long way for all others. A call for one lock that nobody waits for ends before all that follows (acquire.lone,
-- release.lone). To create a function takes as long as a command, so those of the long way are only created when needed.
-- Numbers are passed as text, since to convert one takes as long. Nothing is rolled back when a command fails, so what may fail
-- precedes the writes. When memory is short only the first write of a script is refused, and only one that may need memory: what must
-- work then begins with DEL, PEXPIRE or ZREM.
local KEYS, ARGV, call, try, byte, sub = KEYS, ARGV, redis.call, redis.pcall, string.byte, string.sub
local EXCLUSIVE = 120    -- x: the 35th byte of a claim is its mode
local DAY = 86400000000  -- us: how far the clock may be ahead of the server's time
local REST = '60000'     -- ms: the TTL of a queue, which its waiters prolong; and how long an ear lasts
-- The least score of a claim in a queue, a time in us. That of an ear is one in ms.
local FIRST_PLACE, FIRST_PLACE_TEXT = 1000000000000000, '1000000000000000'
-- ms: the TTL of a handover until it is confirmed
local HANDOVER, HANDOVER_TEXT = 2000, '2000'

-- What attempts, TTL and limit are in a claim.
local SHAPE = '^%x+:%x+:([xsl])2::(%d+):%d*:%d*:[^:]*:[^:]*:(%d*):'

local more = false       -- whether a step remains to be done, by admit.lua
local micros, now        -- the server's time in us and ms
local time_text          -- the first as text: Lua prints a number of so many digits as 1.7952669796831e+15
local told, last         -- the clock as it was before this call, as text; and as it is

-- Whether a member of a queue is an ear.
local function is_ear(member)
  return byte(member, 2) == 58
end

-- Raises the error that a key is not ours. The server keeps nothing but `err` of an error, and one without it may end the server.
local function wrong(key)
  error({ err = 'NOTOURS ' .. key })
end

-- Reads the time and the clock.
local function begin()
  local time = call('TIME')
  micros = time[1] * 1000000 + time[2]
  if micros < FIRST_PLACE then error({ err = 'ERR the server does not know the time' }) end
  now, time_text = math.floor(micros / 1000), time[1] .. sub('00000' .. time[2], -6)
  told = try('GET', KEYS[1])
  if not told then
    told, last = '', 0
    return
  end
  local known = type(told) == 'string' and #told <= 16 and told:find('^%d+$') and tonumber(told)
  if not known or known > micros + DAY then
    if type(told) == 'table' and not told.err:find('WRONGTYPE', 1, true) then error(told) end
    wrong(KEYS[1])
  end
  last = known
end

-- Takes the next epoch, as text.
local function next_epoch()
  local epoch = time_text
  if last < micros then
    last = micros
  else
    last = last + 1
    epoch = string.format('%.0f', last)
  end
  call('SET', KEYS[1], epoch)
  return epoch
end

-- Turns the error of one lock into its answer.
local function failed(problem)
  local text = tostring(type(problem) == 'table' and problem.err or problem):gsub('\n', ' ')
  local key = text:match('^NOTOURS (.*)')
  return key and 'w' .. key or 'e' .. text
end
