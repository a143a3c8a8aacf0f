-- Tells of locks, and changes nothing. Argument: side.
--
-- Answers: the lock's type, value, PTTL and fence, how many wait, and the claim and the token of each that holds it.
return for_each(1, function(lock, side)
  local kind = redis.call('TYPE', lock).ok
  local held, fence = value_of(lock), redis.call('MGET', side .. 'fence:' .. lock)[1]
  local waiters = redis.call('ZCOUNT', side .. 'lives:' .. lock, '(' .. now, '+inf')
  local answer = { kind, held or '', redis.call('PTTL', lock), fence or '', waiters }
  local tokens = held and { held } or {}
  if period_of(held) then tokens = redis.call('ZRANGEBYSCORE', side .. 'readers:' .. lock, '(' .. now, '+inf') end
  for _, token in ipairs(tokens) do
    table.insert(answer, claim_of(token))
    table.insert(answer, token)
  end
  return answer
end)
