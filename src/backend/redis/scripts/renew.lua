-- Extends holds to their full TTL. Arguments: the claim, its epoch, and the TTL in ms.
--
-- KEYS: the main key of each lock, and r2 after it where the hold is shared: of a slot that is being moved, a lock's main key can be
-- reached throughout, but a key that does not exist cannot. ARGV[1] is the number of the call. Reads and writes these keys only.
--
-- Answers: 1 renewed, 0 no longer held, w<key> that key is not ours, e<error>.
local LIMITED = 108 -- l: the 35th byte of a claim is its mode
local now

-- Extends a shared hold: still the period of this hold, and still one of its holders. Otherwise one that was evicted long ago would
-- return by renewing.
local function renew_shared(lock, readers, claim, epoch, ttl)
  local held = redis.call('GETRANGE', lock, '0', '63')
  -- A slot has another epoch than its period, whose first holder has removed all others.
  local is_held = claim:byte(35) == LIMITED and held:find('^limited:2:') or held == 'shared:2:' .. epoch
  if not is_held then return '0' end
  if not now then
    local time = redis.call('TIME')
    now = time[1] * 1000 + math.floor(time[2] / 1000)
  end
  local ends = redis.pcall('ZSCORE', readers, claim)
  if type(ends) == 'table' then return 'w' .. readers end
  if not ends or tonumber(ends) <= now then return '0' end
  -- A short hold must not shorten a long one's.
  local longest = math.max(ttl, redis.call('PTTL', lock))
  redis.call('PEXPIRE', lock, longest)
  redis.call('ZADD', readers, now + ttl, claim)
  redis.call('PEXPIRE', readers, longest)
  return '1'
end

local answers, key = { ARGV[1] }, 0
for part = 1, (#ARGV - 1) / 3 do
  local at = part * 3 - 2
  local claim, epoch, ttl = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local done, answer
  if claim:byte(35) == 120 then
    key = key + 1
    local held = redis.pcall('GETRANGE', KEYS[key], '0', '8191')
    if held == claim:sub(1, 37) .. epoch .. claim:sub(38) then
      answer = redis.pcall('PEXPIRE', KEYS[key], ttl)
      answer = type(answer) == 'table' and 'e' .. answer.err or '1'
    elseif type(held) == 'table' and not held.err:find('WRONGTYPE', 1, true) then
      answer = 'e' .. held.err
    else
      answer = '0'
    end
  else
    key = key + 2
    done, answer = pcall(renew_shared, KEYS[key - 1], KEYS[key], claim, epoch, tonumber(ttl))
    if not done then
      local text = tostring(type(answer) == 'table' and answer.err or answer)
      answer = text:find('WRONGTYPE', 1, true) and '0' or 'e' .. text
    end
  end
  answers[part + 1] = answer
end
return table.concat(answers, '\n')
