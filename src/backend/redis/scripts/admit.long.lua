return function(lock)
  look(lock)
  if not lock.held or lock.mode then admit(lock) end
  return '1'
end
