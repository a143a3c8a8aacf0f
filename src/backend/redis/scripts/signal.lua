-- python-redis-lock waits for `lock:NAME` by BLPOP of `lock-signal:NAME`, to which its releases push one element that lives for a
-- second. So does this function, unless the lock was granted again. A denial by an ACL must not prevent the release.
signal = function(lock)
  if redis.call('EXISTS', lock) == 1 then return end
  local list = 'lock-signal:' .. lock:sub(6)
  redis.pcall('DEL', list)
  redis.pcall('LPUSH', list, 1)
  redis.pcall('PEXPIRE', list, 1000)
end

