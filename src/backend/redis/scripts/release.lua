-- Gives up an attempt, whatever it has: the lock, a share of it, a place in the queue. Arguments: side, token, and for how many ms
-- copies of its requests may still come: they are refused.
--
-- Answers: 1 it held the lock, 0 not, e<error>.
return for_each(3, function(lock, side, token, grave)
  local queue = side .. 'queue:' .. lock
  local held = value_of(lock)
  local had, free, period = held == token, false, period_of(held)
  if had then
    redis.call('DEL', lock)
    free = true
  else
    leave(queue, side .. 'lives:' .. lock, token)
    if period then
      local readers = side .. 'readers:' .. lock
      had = redis.call('ZREM', readers, token) == 1
      redis.call('ZREMRANGEBYSCORE', readers, '-inf', now)
      if redis.call('ZCARD', readers) == 0 then
        redis.call('DEL', lock)
        period, free = nil, true
      end
    else
      free = not held and redis.call('EXISTS', lock) == 0
    end
  end

  grave = tonumber(grave)
  if grave > 0 then
    local gone = side .. 'gone:' .. lock
    redis.call('ZREMRANGEBYSCORE', gone, '-inf', now)
    redis.call('ZADD', gone, now + grave, token:sub(1, 33))
    prolong(gone, grave)
  end
  if (free or period) and redis.call('EXISTS', queue) == 1 then admit(lock, side, period) end
  if signal and held and free then signal(lock) end
  return had and '1' or '0'
end)
