-- Tells of locks, and changes nothing. Argument: side.
--
-- Answers: the lock's type, value, PTTL and fence, how many wait, and the claim and the token of each that holds it.
return for_each(1, function(lock, side)
  local kind = redis.call('TYPE', lock).ok
  local got = redis.call('MGET', lock, side .. 'fence:' .. lock)
  local waiters = redis.call('ZCOUNT', side .. 'lives:' .. lock, '(' .. now, '+inf')
  local answer = { kind, got[1] or '', redis.call('PTTL', lock), got[2] or '', waiters }
  local tokens = got[1] and { got[1] } or {}
  if period_of(got[1]) then tokens = redis.call('ZRANGEBYSCORE', side .. 'readers:' .. lock, '(' .. now, '+inf') end
  for _, token in ipairs(tokens) do
    table.insert(answer, claim_of(token))
    table.insert(answer, token)
  end
  return answer
end)
