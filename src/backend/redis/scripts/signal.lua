-- python-redis-lock waits for `lock:NAME` by BLPOP of `lock-signal:NAME`, where each release of its own puts one word, for a second.
-- So does this, unless somebody has been given the lock. What an ACL denies must not keep the lock from being released.
signal = function(lock)
  if redis.call('EXISTS', lock) == 1 then return end
  local list = 'lock-signal:' .. lock:sub(6)
  redis.pcall('DEL', list)
  redis.pcall('LPUSH', list, 1)
  redis.pcall('PEXPIRE', list, 1000)
end

