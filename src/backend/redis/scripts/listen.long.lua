return function(lock, ear, claim)
  look(lock)
  local holds = lock.held and sub(lock.held, 1, 33) == sub(claim, 1, 33)
  if lock.mode then
    local ends = read('ZSCORE', lock.readers, claim)
    holds = ends and tonumber(ends) > now
  end
  if not holds then return 'n' end
  if first(lock) then return '1' end
  listen(lock, ear)
  return '0'
end
