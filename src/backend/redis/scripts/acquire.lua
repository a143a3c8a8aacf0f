-- Takes a lock, or joins its queue. Arguments: side, token, TTL in ms, '1' to wait.
--
-- Answers: g<epoch> granted, b busy, q<PTTL>:<fence>:[f][o] in the queue, f: first there, o: behind somebody foreign, d refused
-- because the attempt was settled, i the key is no string, e<error>.
--
-- To be repeated at will: who is in the queue stays at his place and lives on, who holds the lock gets his TTL again.
return for_each(4, function(lock, side, token, ttl, wait)
  ttl = tonumber(ttl)
  wait = wait == '1'
  local fence, queue, gone = side .. 'fence:' .. lock, side .. 'queue:' .. lock, side .. 'gone:' .. lock
  local last = redis.call('MGET', fence)[1]
  if redis.call('EXISTS', lock, queue, gone) == 0 and not is_shared(token) then
    local epoch = next_epoch(fence, last)
    redis.call('SET', lock, token, 'PX', ttl)
    return 'g' .. epoch
  end

  local settled = redis.call('ZSCORE', gone, token:sub(1, 33))
  if settled and tonumber(settled) > now then return 'd' end
  local held = value_of(lock)
  if held == token then
    redis.call('PEXPIRE', lock, ttl)
    return 'g' .. (last or next_epoch(fence, last))
  end

  local lives, readers = side .. 'lives:' .. lock, side .. 'readers:' .. lock
  local period, free = period_of(held), not held
  if period then
    redis.call('ZREMRANGEBYSCORE', readers, '-inf', now)
    if redis.call('ZSCORE', readers, token) then
      share(lock, readers, token, ttl)
      return 'g' .. period
    end
    if redis.call('ZCARD', readers) == 0 then period, free = nil, true end
  elseif free and redis.call('EXISTS', lock) == 1 then
    return 'i'
  end

  local placed = redis.call('ZSCORE', queue, token)
  if placed then
    -- PEXPIRE first: this is to work when memory is short.
    redis.call('PEXPIRE', queue, REST)
    redis.call('ZADD', lives, now + LIFE, token)
    redis.call('PEXPIRE', lives, REST)
  end
  local ahead = first(queue, lives)
  local may = free or (period and is_shared(token))
  if not placed and (wait or (may and not ahead)) then
    local newest = redis.call('ZREVRANGE', queue, 0, 0, 'WITHSCORES')
    redis.call('ZADD', queue, after(newest[2]), token)
    redis.call('ZADD', lives, now + LIFE, token)
    redis.call('PEXPIRE', queue, REST)
    redis.call('PEXPIRE', lives, REST)
  end
  if free or period then
    local epoch = admit(lock, side, period, token, ttl)
    if epoch then return 'g' .. epoch end
  end
  if not wait then return 'b' end

  local answer = 'q' .. redis.call('PTTL', lock) .. ':' .. (redis.call('GET', fence) or '') .. ':'
  if redis.call('ZRANGE', queue, 0, 0)[1] == token then answer = answer .. 'f' end
  if not free and not period and not held:find('^%x+:%x+:[sx]%d+:') then answer = answer .. 'o' end
  return answer
end)
