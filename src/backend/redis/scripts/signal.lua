-- python-redis-lock waits for `lock:NAME` by BLPOP of `lock-signal:NAME`, to which its releases push one element that lives for a
-- second. So does this function, after a lock became free. The list is not declared: an account without access to it, and a list
-- in another slot, would make the whole call fail. So a failure here must not prevent the release.
local function signal(lock)
  local list = 'lock-signal:' .. lock.key:sub(6)
  redis.pcall('DEL', list)
  redis.pcall('LPUSH', list, 1)
  redis.pcall('PEXPIRE', list, 1000)
end
