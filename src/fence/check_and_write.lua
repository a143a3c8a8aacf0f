-- Writes a value unless somebody with a greater fencing token has been here. KEYS: where to write, and where the greatest token is
-- kept, in the same slot of a cluster. ARGV: the token, the value, and for how many ms the value lives; empty or left out, for ever.
--
-- Answers: nil it was written, else the greatest token so far, and nothing was.

local MONTH = 2592000000  -- ms that the token outlives a value that expires

-- Tokens pass 2^53, and numbers are floats here: as digits they are compared by their count, and then as text.
local function digits(text)
  return text:match('^0*(%d+)$')
end

local token, greatest = digits(ARGV[1]), redis.call('GET', KEYS[2])
if not token then return redis.error_reply('ERR not a fencing token: ' .. ARGV[1]) end
if greatest then
  greatest = digits(greatest)
  if not greatest then return redis.error_reply('ERR not a fencing token: what is at ' .. KEYS[2]) end
  if #greatest > #token or (#greatest == #token and greatest > token) then return greatest end
end

-- The token first: should the second write fail, a late one is refused all the same.
local ttl = ARGV[3] or ''
if ttl ~= '' then
  redis.call('SET', KEYS[2], token, 'PX', string.format('%.0f', ttl + MONTH))
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ttl)
else
  redis.call('SET', KEYS[2], token)
  redis.call('SET', KEYS[1], ARGV[2])
end
return false
