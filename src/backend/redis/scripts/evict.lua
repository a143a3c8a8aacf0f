-- Takes locks away from whoever holds them, and tells those. Argument: side.
--
-- Answers: the tokens of those who held it, foreign ones as they are; i the key is no string, e<error>.
return for_each(1, function(lock, side)
  local held = redis.call('MGET', lock)[1]
  if not held then
    if redis.call('EXISTS', lock) == 1 then return 'i' end
    return {}
  end
  local readers = side .. 'readers:' .. lock
  local holders = { held }
  if period_of(held) then holders = redis.call('ZRANGEBYSCORE', readers, '(' .. now, '+inf') end
  redis.call('DEL', lock, readers)
  for _, token in ipairs(holders) do
    if token:find('^%x+:%x+:[sx]%d+:') then tell(token, 'l') end
  end
  admit(lock, side)
  if signal then signal(lock) end
  return holders
end)
