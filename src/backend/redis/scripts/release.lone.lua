-- One exclusive hold that nobody waits for or listens to: before any function is created, since that takes as long as a command. All else
-- goes on below.
--
-- How many queues there are; nil if there are several locks, or not all are alike.
local queued
if #KEYS == 6 and not SIGNALS and ARGV[3] ~= '' then
  queued = redis.call('EXISTS', KEYS[4])
  if queued == 0 and redis.pcall('GETRANGE', KEYS[5], '0', '36') == ARGV[4]:sub(3, 39) then
    redis.call('DEL', KEYS[5])
    return ARGV[1] .. '\n1'
  end
end
