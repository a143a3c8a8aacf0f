return function(lock)
  -- Ears as well: another call may not have notified all.
  lock.changed, lock.joined = true, true
  look(lock)
  if not lock.held or lock.mode then admit(lock) end
  return '1'
end
