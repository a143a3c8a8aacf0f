-- One exclusive claim for a lock that is free, and that nobody waits for or listens to: before any function is created, since that takes as long as
-- a command. All else goes on below.
if
  #KEYS == 7
  and ARGV[3] ~= ''
  and redis.call('EXISTS', KEYS[3], KEYS[4], KEYS[5], KEYS[6]) == 0
then
  local time, known = redis.call('TIME'), redis.pcall('GET', KEYS[1])
  local now = time[1] * 1000000 + time[2]
  local is_past = not known or type(known) == 'string' and #known <= 16 and known:find('^%d+$') and tonumber(known) < now
  if is_past and now >= 1000000000000000 then
    local epoch = time[1] .. ('00000' .. time[2]):sub(-6)
    -- Nothing is given before the epoch is written.
    if redis.pcall('SET', KEYS[1], epoch).ok then
      local value = ARGV[4]:sub(3, 39) .. epoch .. ARGV[4]:sub(40)
      local set = redis.pcall('SET', KEYS[6], value, 'PX', ARGV[3], 'NX')
      if set and set.ok then return ARGV[1] .. '\ng' .. epoch end
    end
  end
end
