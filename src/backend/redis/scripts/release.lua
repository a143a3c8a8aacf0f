-- Gives up attempts: their holds, or their places in the queues. Arguments: 1 if all are exclusive and leave no tombstone, else nothing;
-- then for each lock the TTL in ms of a tombstone, by which later copies of its requests are refused, 0 for none; a space; the claim.
--
-- Reads and writes: all keys of the locks, clock, lives.
--
-- Answers: 1 if it held the lock, else 0; w<key> that key is not ours; e<error>. An m at the end: a step remains to be done.
local count = (#KEYS - 3) / 3
local queues, locks = 3, 3 + count
-- Whether all are alike.
local common = ARGV[3] ~= ''
local answers, freed, long = { ARGV[1] }, {}, nil
queued = queued or call('EXISTS', unpack(KEYS, 4, locks))

-- Gives a lock that this call releases to the first in its queue, which is exclusive and alive. nil if the long way has to see to it:
-- an ear is before all claims.
local function hand_over(lock, queue)
  local claim = try('ZRANGE', queue, '0', '0')[1]
  if not claim or #claim > 8192 then return nil end
  local mode, ttl = claim:match(SHAPE)
  if mode ~= 'x' or #ttl > 8 or tonumber(ttl) < 1 then return nil end
  if not last and not pcall(begin) then return nil end
  local life = try('ZSCORE', KEYS[2], sub(claim, 1, 16))
  if type(life) ~= 'string' or tonumber(life) <= now then return nil end
  if tonumber(ttl) > HANDOVER then ttl = HANDOVER_TEXT end
  -- ZREM first: it is not refused when memory is short.
  call('ZREM', queue, claim)
  local epoch = next_epoch()
  call('SET', lock, sub(claim, 1, 37) .. epoch .. sub(claim, 38), 'PX', ttl)
  try('PUBLISH', ARGV[2] .. sub(claim, 1, 16), 'g' .. sub(claim, 18, 33) .. epoch)
  return '1'
end

for part = 1, count do
  local request, answer = ARGV[part + 3], nil
  local lock, queue = KEYS[locks + part], KEYS[queues + part]
  local has_queue = queued > 0 and (count == 1 or call('EXISTS', queue) == 1)
  if
    (common or byte(request, 1) == 48 and byte(request, 2) == 32 and byte(request, 37) == EXCLUSIVE)
    and try('GETRANGE', lock, '0', '36') == sub(request, 3, 39)
  then
    if has_queue then
      answer = hand_over(lock, queue)
    elseif not SIGNALS then
      freed[#freed + 1], answer = lock, '1'
    end
  end
  if not answer then
    long = long or long_way()
    answer = long(part, has_queue, request:match('^(%d+) (.*)'))
  end
  answers[part + 1] = answer
end
if #freed > 0 then call('DEL', unpack(freed)) end
return table.concat(answers, '\n')
