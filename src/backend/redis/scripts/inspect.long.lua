local CHECKED = 1000 -- how many places are checked for the life of their manager

return function(lock, ear)
  if ear ~= '' then listen(lock, ear) end
  look(lock)
  local kind = call('TYPE', lock.key).ok
  local waiters = read('ZCOUNT', lock.queue, FIRST_PLACE_TEXT, '+inf')
  for _, claim in ipairs(front(lock, CHECKED)) do
    if not is_alive(claim:sub(1, 16)) then waiters = waiters - 1 end
  end
  local answer = { kind, lock.held or '', call('PTTL', lock.key), waiters }
  local values = lock.held and { lock.held } or {}
  if lock.mode then
    values = read('ZRANGEBYSCORE', lock.readers, '(' .. now, '+inf')
  end
  for _, value in ipairs(values) do
    -- As much as is read of a lock's value: another client may have written anything.
    value = value:sub(1, LARGEST)
    table.insert(answer, redis.sha1hex(value))
    table.insert(answer, value)
  end
  return answer
end
