-- One exclusive hold that nobody waits for or listens to: before any function is created, since that takes as long as a command. All else goes on
-- below.
if
  #KEYS == 7
  and not SIGNALS
  and ARGV[3] ~= ''
  and redis.pcall('GETRANGE', KEYS[6], '0', '36') == ARGV[4]:sub(3, 39)
  and redis.call('EXISTS', KEYS[4], KEYS[5]) == 0
then
  redis.call('DEL', KEYS[6])
  return ARGV[1] .. '\n1'
end
