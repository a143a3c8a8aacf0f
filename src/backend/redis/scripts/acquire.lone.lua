-- One exclusive claim for a lock that is free, and that nobody waits for or listens to: before any function is created, since that takes
-- as long as a command. All else goes on below.
--
-- How many there are of this manager's tombstones, the queue and the lock; nil if there are several locks, or if they are not all alike.
local present
if #KEYS == 6 and ARGV[3] ~= '' then
  present = redis.call('EXISTS', KEYS[3], KEYS[4], KEYS[5])
  local time = present == 0 and redis.call('TIME')
  local epoch = time and time[1] .. ('00000' .. time[2]):sub(-6)
  if epoch and #epoch == 16 then
    -- Nothing is given before the epoch is written.
    local known = redis.pcall('GETSET', KEYS[1], epoch)
    local is_past = not known
      or type(known) == 'string' and #known <= 16 and known:find('^%d+$') and tonumber(known) < tonumber(epoch)
    if is_past then
      local value = ARGV[4]:sub(3, 39) .. epoch .. ARGV[4]:sub(40)
      local set = redis.pcall('SET', KEYS[5], value, 'PX', ARGV[3], 'NX')
      if set and set.ok then return ARGV[1] .. '\ng' .. epoch end
    elseif type(known) == 'string' then
      redis.call('SET', KEYS[1], known)
    end
  end
end
