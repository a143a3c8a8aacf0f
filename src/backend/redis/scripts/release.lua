-- Gives up an attempt: its hold, or its place in the queue. Arguments: side; value; and the TTL in ms of a tombstone, by which later
-- copies of its requests are refused, 0 for none.
--
-- Answers: 1 if it held the lock, else 0; e<error>.
return for_each(3, function(lock, side, value, tombstone)
  local queue = side .. 'queue:' .. lock
  local held = value_of(lock)
  local had, free, period = held == value, false, period_of(held)
  if had then
    redis.call('DEL', lock)
    free = true
  else
    leave(queue, side .. 'lives:' .. lock, value)
    if period then
      local readers = side .. 'readers:' .. lock
      had = redis.call('ZREM', readers, value) == 1
      redis.call('ZREMRANGEBYSCORE', readers, '-inf', now)
      if redis.call('ZCARD', readers) == 0 then
        redis.call('DEL', lock)
        period, free = nil, true
      end
    else
      free = not held and redis.call('EXISTS', lock) == 0
    end
  end

  tombstone = tonumber(tombstone)
  if tombstone > 0 then
    local tombstones = side .. 'gone:' .. lock
    redis.call('ZREMRANGEBYSCORE', tombstones, '-inf', now)
    redis.call('ZADD', tombstones, now + tombstone, value:sub(1, 33))
    prolong(tombstones, tombstone)
  end
  if (free or period) and redis.call('EXISTS', queue) == 1 then admit(lock, side, period) end
  if signal and held and free then signal(lock) end
  return had and '1' or '0'
end)
