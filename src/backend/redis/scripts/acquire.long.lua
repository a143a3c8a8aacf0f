-- Adds a claim to the queue of a lock, unless it is there. Returns its place, and whether the queue was empty.
local function join(lock, claim, wanted)
  local queue = lock.queue
  local newest = read('ZREVRANGE', queue, '0', '0', 'WITHSCORES')
  -- PEXPIRE first: who waits already must not be refused when memory is short.
  if newest[1] then call('PEXPIRE', queue, REST) end
  local leads, last_place, place = not newest[1] or is_ear(newest[1]), whole(newest[2]), micros
  if last_place and last_place >= micros then place = last_place + 1 end
  -- A place that was lost with the life of its manager, which has returned.
  wanted = whole(wanted)
  if wanted and wanted >= FIRST_PLACE and wanted < place then place = wanted end
  if call('ZADD', queue, 'NX', string.format('%.0f', place), claim) == 0 then
    local known = call('ZSCORE', queue, claim)
    return whole(known) or 0, front(lock, 1)[1] == claim
  end
  lock.joined = true
  if not newest[1] then call('PEXPIRE', queue, REST) end
  return place, leads
end

-- The time in ms until a hold may end that keeps this claim waiting; -1 if there is no such time.
local function time_left(lock, mode)
  if mode == 'l' and lock.mode == 'l' then
    local next_end = read('ZRANGEBYSCORE', lock.readers, '(' .. now, '+inf', 'WITHSCORES', 'LIMIT', 0, 1)[2]
    if next_end then return string.format('%.0f', math.max(0, tonumber(next_end) - now)) end
  end
  return call('PTTL', lock.key)
end

return function(lock, wanted, claim)
  local id, mode, ttl, limit = claim:sub(1, 33), read_claim(claim)
  local wait = wanted ~= '-'
  alive[claim:sub(1, 16)] = true
  local tombstone = read('ZSCORE', KEYS[3], id)
  if tombstone and tonumber(tombstone) > now then return 'd' end

  -- Read again: another part of this call may have been about the same lock.
  look(lock)
  local epoch = lock.held and lock.held:sub(1, 33) == id and lock.held:match('^%d+', 38)
  if epoch and whole(epoch) then
    call('PEXPIRE', lock.key, ttl)
    return 'g' .. epoch
  end
  if lock.mode == mode then
    local ends = read('ZSCORE', lock.readers, claim)
    if ends and tonumber(ends) > now then return 'g' .. take(lock, mode, claim, ttl) end
  end
  if lock.held == '' and call('TYPE', lock.key).ok ~= 'string' then return 'i' end

  local fitting, place, leads = fits(lock, mode, limit), nil, nil
  if fitting then
    local ahead, known = first(lock)
    if known and (not ahead or ahead == claim) then
      epoch = take(lock, mode, claim, ttl)
      if ahead then call('ZREM', lock.queue, claim) end
      if mode ~= 'x' then admit(lock) end
      return 'g' .. epoch
    end
  end
  if wait then place, leads = join(lock, claim, wanted) end
  -- A free lock with others ahead: its holder has expired.
  if fitting then
    epoch = admit(lock, claim, ttl)
    if epoch then return 'g' .. epoch end
  end
  if not wait then return 'b' end
  local answer = 'q' .. time_left(lock, mode) .. ':' .. told .. ':' .. string.format('%.0f', place) .. ':'
  if leads then answer = answer .. 'f' end
  if lock.held and not lock.mode and not lock.held:find('^%x+:%x+:[xsl]%d+:') then answer = answer .. 'o' end
  return answer
end
