-- Takes locks away from those who hold them, and tells those. Arguments: side, and '' for all holders, or '=' and the claims that are
-- to go, as inspect.lua names them, with commas between.
--
-- Answers: the tokens of those who held it and went, foreign ones as they are; i the key is no string, e<error>.
return for_each(2, function(lock, side, claims)
  local held = value_of(lock)
  if not held then
    if redis.call('EXISTS', lock) == 1 then return 'i' end
    return {}
  end
  local wanted = {}
  for claim in claims:gmatch('%x+') do wanted[claim] = true end
  local readers, period = side .. 'readers:' .. lock, period_of(held)
  local gone, left = {}, 0
  for _, token in ipairs(period and redis.call('ZRANGEBYSCORE', readers, '(' .. now, '+inf') or { held }) do
    if claims == '' or wanted[claim_of(token)] then
      table.insert(gone, token)
    else
      left = left + 1
    end
  end
  if left == 0 then
    redis.call('DEL', lock, readers)
    period = nil
  elseif #gone == 0 then
    return {}
  else
    for _, token in ipairs(gone) do redis.call('ZREM', readers, token) end
  end
  for _, token in ipairs(gone) do
    if token:find('^%x+:%x+:[sx]%d+:') then tell(token, 'l') end
  end
  admit(lock, side, period)
  if signal and left == 0 then signal(lock) end
  return gone
end)
