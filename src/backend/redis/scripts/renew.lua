-- Gives holds their TTL again. Arguments: side, token, TTL in ms, the epoch of a shared hold or ''.
--
-- Answers: 1 renewed, 0 gone, e<error>.
return for_each(4, function(lock, side, token, ttl, epoch)
  ttl = tonumber(ttl)
  local held = value_of(lock)
  if epoch == '' then
    if held ~= token then return '0' end
    redis.call('PEXPIRE', lock, ttl)
    return '1'
  end
  -- The period of this hold, and still a reader in it: else who was evicted long ago would renew its way back in.
  if held ~= SHARED .. epoch then return '0' end
  local readers = side .. 'readers:' .. lock
  local ends = redis.call('ZSCORE', readers, token)
  if not ends or tonumber(ends) <= now then return '0' end
  share(lock, readers, token, ttl)
  return '1'
end)
