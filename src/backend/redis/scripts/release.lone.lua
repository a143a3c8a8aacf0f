-- One exclusive hold that nobody waits for: before any function is created, since that takes as long as a command. All else goes on
-- below.
if
  #KEYS == 7
  and not SIGNALS
  and ARGV[5] == '0'
  and ARGV[3]:byte(35) == 120
  and redis.pcall('GETRANGE', KEYS[3], '0', '36') == ARGV[3]
  and redis.call('EXISTS', KEYS[4], KEYS[7]) == 0
then
  redis.call('DEL', KEYS[3])
  return { ARGV[1], '1' }
end
