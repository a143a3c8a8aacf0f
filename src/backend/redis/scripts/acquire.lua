-- Acquires a lock, or joins its queue. Arguments: side, value, TTL in ms, '1' to wait.
--
-- Answers: g<epoch> granted; b busy; q<PTTL>:<fence>:[f][o] queued, f: first in the queue, o: the holder is another client library;
-- d refused, because the attempt was given up; i the key is not a string; e<error>.
--
-- A repeated call of a queued attempt keeps and refreshes its place; one of a holder extends the hold to its full TTL.
return for_each(4, function(lock, side, value, ttl, wait)
  ttl = tonumber(ttl)
  wait = wait == '1'
  local fence, queue, tombstones = side .. 'fence:' .. lock, side .. 'queue:' .. lock, side .. 'gone:' .. lock
  local last = redis.call('MGET', fence)[1]
  if redis.call('EXISTS', lock, queue, tombstones) == 0 and not is_shared(value) then
    local epoch = next_epoch(fence, last)
    redis.call('SET', lock, value, 'PX', ttl)
    return 'g' .. epoch
  end

  local tombstone = redis.call('ZSCORE', tombstones, value:sub(1, 33))
  if tombstone and tonumber(tombstone) > now then return 'd' end
  local held = value_of(lock)
  if held == value then
    redis.call('PEXPIRE', lock, ttl)
    return 'g' .. (last or next_epoch(fence, last))
  end

  local lives, readers = side .. 'lives:' .. lock, side .. 'readers:' .. lock
  local period, free = period_of(held), not held
  if period then
    redis.call('ZREMRANGEBYSCORE', readers, '-inf', now)
    if redis.call('ZSCORE', readers, value) then
      share(lock, readers, value, ttl)
      return 'g' .. period
    end
    if redis.call('ZCARD', readers) == 0 then period, free = nil, true end
  elseif free and redis.call('EXISTS', lock) == 1 then
    return 'i'
  end

  local placed = redis.call('ZSCORE', queue, value)
  if placed then
    -- PEXPIRE first: a refresh must work when memory is short.
    redis.call('PEXPIRE', queue, REST)
    redis.call('ZADD', lives, now + LIFE, value)
    redis.call('PEXPIRE', lives, REST)
  end
  local ahead = first(queue, lives)
  local may = free or (period and is_shared(value))
  if not placed and (wait or (may and not ahead)) then
    local newest = redis.call('ZREVRANGE', queue, 0, 0, 'WITHSCORES')
    redis.call('ZADD', queue, after(newest[2]), value)
    redis.call('ZADD', lives, now + LIFE, value)
    redis.call('PEXPIRE', queue, REST)
    redis.call('PEXPIRE', lives, REST)
  end
  if free or period then
    local epoch = admit(lock, side, period, value, ttl)
    if epoch then return 'g' .. epoch end
  end
  if not wait then return 'b' end

  local answer = 'q' .. redis.call('PTTL', lock) .. ':' .. (redis.call('GET', fence) or '') .. ':'
  if redis.call('ZRANGE', queue, 0, 0)[1] == value then answer = answer .. 'f' end
  if not free and not period and not held:find('^%x+:%x+:[sx]%d+:') then answer = answer .. 'o' end
  return answer
end)
