-- Says that a manager is alive, so that its places in queues count for 1.9 s more.
--
-- KEYS: lives. ARGV: the number of the call, the manager.
--
-- Answers: 1 its life had not ended; 0 it had, but it may return to its old places; n it was unknown.
local LIFE = 1900     -- ms
local RETURN = 10000  -- ms: how long after its end a life is known

-- PEXPIRE first: when memory is short, a script whose first write is ZADD would be refused.
local known = redis.pcall('PEXPIRE', KEYS[1], LIFE + RETURN)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ends = redis.pcall('ZSCORE', KEYS[1], ARGV[2])
if type(ends) == 'table' then
  return ARGV[1] .. '\n' .. (ends.err:find('WRONGTYPE', 1, true) and 'w' .. KEYS[1] or 'e' .. ends.err)
end
redis.call('ZADD', KEYS[1], now + LIFE, ARGV[2])
if known == 0 then redis.call('PEXPIRE', KEYS[1], LIFE + RETURN) end
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now - RETURN)
if not ends then return ARGV[1] .. '\nn' end
return ARGV[1] .. '\n' .. (tonumber(ends) > now and '1' or '0')
