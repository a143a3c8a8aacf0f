-- Describes locks. Arguments: an ear for each lock, to be notified of its next change; '' for none.
--
-- Reads: K, q2, r2, lives. Writes: q2.
--
-- Answers: the type, value and PTTL of the lock, the number of waiters, and the id and the value of each claim that holds it;
-- w<key> that key is not ours; e<error>.
local answers, long = { ARGV[1] }, long_way()
for part = 1, (#KEYS - 3) / 3 do
  answers[part + 1] = long(part, false, ARGV[part + 2])
end
return answers
