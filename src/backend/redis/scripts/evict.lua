-- Removes claims that hold a lock, and notifies their managers. Arguments: side; and '' for all holders, or '=' and the ids of the
-- claims to remove, as returned by inspect.lua, separated by commas.
--
-- Answers: the values of the removed claims, including those of other client libraries; i the key is not a string; e<error>.
return for_each(2, function(lock, side, claims)
  local held = value_of(lock)
  if not held then
    if redis.call('EXISTS', lock) == 1 then return 'i' end
    return {}
  end
  local wanted = {}
  for claim in claims:gmatch('%x+') do wanted[claim] = true end
  local readers, period = side .. 'readers:' .. lock, period_of(held)
  local removed, left = {}, 0
  for _, value in ipairs(period and redis.call('ZRANGEBYSCORE', readers, '(' .. now, '+inf') or { held }) do
    if claims == '' or wanted[claim_of(value)] then
      table.insert(removed, value)
    else
      left = left + 1
    end
  end
  if left == 0 then
    redis.call('DEL', lock, readers)
    period = nil
  elseif #removed == 0 then
    return {}
  else
    for _, value in ipairs(removed) do redis.call('ZREM', readers, value) end
  end
  for _, value in ipairs(removed) do
    if value:find('^%x+:%x+:[sx]%d+:') then notify(value, 'l') end
  end
  admit(lock, side, period)
  if signal and left == 0 then signal(lock) end
  return removed
end)
