-- Extends holds to their full TTL. Arguments: side, value, TTL in ms, the epoch of a shared hold or ''.
--
-- Answers: 1 renewed, 0 no longer held, e<error>.
return for_each(4, function(lock, side, value, ttl, epoch)
  ttl = tonumber(ttl)
  local held = value_of(lock)
  if epoch == '' then
    if held ~= value then return '0' end
    redis.call('PEXPIRE', lock, ttl)
    return '1'
  end
  -- Still the period of this hold, and still a reader in it: otherwise a reader that was evicted long ago would return by renewing.
  if held ~= SHARED .. epoch then return '0' end
  local readers = side .. 'readers:' .. lock
  local ends = redis.call('ZSCORE', readers, value)
  if not ends or tonumber(ends) <= now then return '0' end
  share(lock, readers, value, ttl)
  return '1'
end)
