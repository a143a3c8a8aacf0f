-- Goes on with what a call left undone: removes dead places, and gives locks to the first in their queues, and
-- notifies ears. No arguments.
--
-- Reads and writes: K, q2, r2, clock, lives.
--
-- Answers: 1; w<key> that key is not ours; e<error>. An m at the end: a further step remains to be done.
local answers, long = { ARGV[1] }, long_way()
for part = 1, (#KEYS - 3) / 3 do
  answers[part + 1] = long(part, true)
end
return table.concat(answers, '\n')
