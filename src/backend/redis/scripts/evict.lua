-- Removes claims that hold a lock, and notifies their managers. Arguments: '' for all holders, or '=' and the ids of the claims to
-- remove, as returned by inspect.lua, separated by commas.
--
-- Reads and writes: K, q2, r2, clock, lives, the signal list.
--
-- Answers: the values of the removed claims, including those of other client libraries, then m if a step remains to be done; i the key
-- is not a string; w<key> that key is not ours; e<error>.
local answers, long = { ARGV[1] }, long_way()
for part = 1, (#KEYS - 3) / 3 do
  local answer = long(part, true, ARGV[part + 2])
  answers[part + 1] = answer
end
return answers
