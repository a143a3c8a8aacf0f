-- Adds an ear to those of a lock, for a minute.
local function listen(lock, ear)
  read('ZSCORE', lock.queue, ear)
  -- PEXPIRE first: when memory is short, a script whose first write is ZADD would be refused.
  local known = call('PEXPIRE', lock.queue, REST)
  call('ZADD', lock.queue, now + REST, ear)
  if known == 0 then call('PEXPIRE', lock.queue, REST) end
  -- Those of managers that no longer exist.
  call('ZREMRANGEBYSCORE', lock.queue, '-inf', now)
end
