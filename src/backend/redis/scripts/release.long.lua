-- Leaves a tombstone, by which later copies of an attempt's requests are refused for `ms`.
local function bury(id, ms)
  local gone = KEYS[3]
  local old = math.min(64, call('ZCOUNT', gone, '-inf', now))
  if old > 0 then call('ZREMRANGEBYRANK', gone, 0, old - 1) end
  call('ZADD', gone, now + ms, id)
  call('PEXPIRE', gone, math.max(ms, call('PTTL', gone)))
end

return function(lock, tombstone, claim)
  local id = claim:sub(1, 33)
  tombstone = tonumber(tombstone)
  if tombstone > 0 then read('ZSCORE', KEYS[3], id) end
  look(lock)
  local found, freed = false, false
  if lock.held and lock.held:sub(1, 33) == id then
    found, freed = true, true
  elseif lock.mode then
    local ends = read('ZSCORE', lock.readers, claim)
    if lock.has_queue then read('ZREM', lock.queue, claim) end
    if ends then
      found, lock.changed = tonumber(ends) > now, true
      local last = last_end(lock, claim)
      if last then
        call('ZREM', lock.readers, claim)
        lock.count = nil
        -- So the lock ends with its last holder.
        call('PEXPIRE', lock.key, last - now)
      else
        freed = true
      end
    end
  else
    if lock.has_queue then read('ZREM', lock.queue, claim) end
    -- Its period has ended, if it had one.
    if byte(claim, 35) ~= EXCLUSIVE then read('ZREM', lock.readers, claim) end
  end
  if freed then
    -- At first: in a slot that is being moved, a call ends where it comes to a key that does not exist.
    call('DEL', lock.key, lock.readers)
    lock.held, lock.mode, lock.changed = nil, nil, true
  end
  if lock.has_queue and (not lock.held or lock.mode) then admit(lock) end
  if freed and not lock.held and signal then signal(lock) end
  if tombstone > 0 then bury(id, tombstone) end
  return found and '1' or '0'
end
