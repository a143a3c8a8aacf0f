-- Tells of locks, and changes nothing. Argument: side.
--
-- Answers: the lock's type, value, PTTL and fence, how many wait, and who shares it.
return for_each(1, function(lock, side)
  local kind = redis.call('TYPE', lock).ok
  local got = redis.call('MGET', lock, side .. 'fence:' .. lock)
  local waiters = redis.call('ZCOUNT', side .. 'lives:' .. lock, '(' .. now, '+inf')
  local answer = { kind, got[1] or '', redis.call('PTTL', lock), got[2] or '', waiters }
  if period_of(got[1]) then
    for _, reader in ipairs(redis.call('ZRANGEBYSCORE', side .. 'readers:' .. lock, '(' .. now, '+inf')) do
      table.insert(answer, reader)
    end
  end
  return answer
end)
