-- Returns whether somebody waits for the lock of a hold. Arguments: for each hold an ear, to be notified of the next waiter if nobody
-- does; a space; the claim.
--
-- Reads and writes: K, q2, r2, lives.
--
-- Answers: 1 somebody waits; 0 nobody does, and the ear is there; n the claim does not hold the lock; w<key> that key is not ours;
-- e<error>. An m at the end: dead places remain to be removed.
local answers, long = { ARGV[1] }, long_way()
for part = 1, (#KEYS - 3) / 3 do
  answers[part + 1] = long(part, false, ARGV[part + 2]:match('^(%S+) (.*)'))
end
return table.concat(answers, '\n')
