-- Writes a value unless a greater fencing token was admitted before. KEYS: the key of the value, and the key of the greatest token, in
-- the same slot of a cluster. ARGV: the token, the value, and the TTL of the value in ms; if it is empty or absent, the value does not
-- expire.
--
-- Returns nil if the value was written, else the greatest token so far.

local MONTH = 2592000000  -- ms that the token outlives a value that expires

-- Tokens can exceed 2^53, and numbers are floats here, so tokens are compared by their number of digits, and then as text.
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

-- The token first: if the second write fails, an outdated holder is refused nevertheless.
local ttl = ARGV[3] or ''
if ttl ~= '' then
  redis.call('SET', KEYS[2], token, 'PX', string.format('%.0f', ttl + MONTH))
  redis.call('SET', KEYS[1], ARGV[2], 'PX', ttl)
else
  redis.call('SET', KEYS[2], token)
  redis.call('SET', KEYS[1], ARGV[2])
end
return false
