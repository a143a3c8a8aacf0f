-- Describes locks, without a change. Argument: side.
--
-- Answers: the type, value, PTTL and fence of the lock, the number of waiters, and the id and the value of each claim that holds it.
return for_each(1, function(lock, side)
  local kind = redis.call('TYPE', lock).ok
  local held, fence = value_of(lock), redis.call('MGET', side .. 'fence:' .. lock)[1]
  local waiters = redis.call('ZCOUNT', side .. 'lives:' .. lock, '(' .. now, '+inf')
  local answer = { kind, held or '', redis.call('PTTL', lock), fence or '', waiters }
  local values = held and { held } or {}
  if period_of(held) then values = redis.call('ZRANGEBYSCORE', side .. 'readers:' .. lock, '(' .. now, '+inf') end
  for _, value in ipairs(values) do
    -- As much as is read of a lock's value: another client may have written anything.
    value = string.sub(value, 1, LARGEST)
    table.insert(answer, claim_of(value))
    table.insert(answer, value)
  end
  return answer
end)
