return function(lock, claims)
  look(lock)
  if not lock.held then return {} end
  if lock.held == '' and call('TYPE', lock.key).ok ~= 'string' then return 'i' end
  local wanted = {}
  for claim in claims:gmatch('%x+') do wanted[claim] = true end
  local removed, left = {}, 0
  for _, value in ipairs(lock.mode and read('ZRANGEBYSCORE', lock.readers, '(' .. now, '+inf') or { lock.held }) do
    if claims == '' or wanted[redis.sha1hex(value)] then
      table.insert(removed, value)
    else
      left = left + 1
    end
  end
  if #removed == 0 then return {} end
  read('ZRANGE', lock.queue, 0, 0)
  lock.changed = true
  if left == 0 then
    call('DEL', lock.key, lock.readers)
    lock.held, lock.mode = nil, nil
  else
    for _, value in ipairs(removed) do call('ZREM', lock.readers, value) end
    call('PEXPIRE', lock.key, last_end(lock) - now)
    lock.count = nil
  end
  for _, value in ipairs(removed) do
    if value:find('^%x+:%x+:[xsl]%d+:') then notify(value, 'l') end
  end
  admit(lock)
  if signal and not lock.held then signal(lock) end
  return removed
end
