-- Replaces the time of the server: `%now` has it in us, `%ends` when keys expire, `%messages` what was published, `%oom` is there if
-- memory is short.
local real = redis
local at = tonumber(real.call('GET', '%now'))
local at_ms = math.floor(at / 1000)
local no_memory, dirty = real.call('EXISTS', '%oom') == 1, false
for _, key in ipairs(real.call('ZRANGEBYSCORE', '%ends', '-inf', string.format('%.0f', at_ms))) do
  real.call('DEL', key)
  real.call('ZREM', '%ends', key)
end
local GROWS = { SET = true, GETSET = true, ZADD = true, LPUSH = true }
local WRITES = { SET = true, GETSET = true, ZADD = true, LPUSH = true, DEL = true, PEXPIRE = true, ZREM = true, ZREMRANGEBYSCORE = true, ZREMRANGEBYRANK = true }

local function ends(key, ms)
  real.call('ZADD', '%ends', string.format('%.0f', at_ms + tonumber(ms)), key)
end

local function shim(call)
  return function(command, key, ...)
    local more = { ... }
    if command == 'TIME' then
      return { string.format('%.0f', math.floor(at / 1000000)), string.format('%.0f', at % 1000000) }
    end
    if command == 'PUBLISH' then return real.call('RPUSH', '%messages', key .. ' ' .. more[1]) end
    if no_memory and not dirty and GROWS[command] then
      local oom = { err = "OOM command not allowed when used memory > 'maxmemory'." }
      if call == real.pcall then return oom end
      error(oom)
    end
    dirty = dirty or WRITES[command]
    if command == 'PEXPIRE' then
      if real.call('EXISTS', key) == 0 then return 0 end
      ends(key, more[1])
      return 1
    end
    if command == 'PTTL' then
      if real.call('EXISTS', key) == 0 then return -2 end
      local score = real.call('ZSCORE', '%ends', key)
      return score and tonumber(score) - at_ms or -1
    end
    if command == 'SET' then
      local answer = more[4] == 'NX' and call('SET', key, more[1], 'NX') or not more[4] and call('SET', key, more[1])
      if answer and not answer.err then
        real.call('ZREM', '%ends', key)
        if more[2] == 'PX' then ends(key, more[3]) end
      end
      return answer
    end
    local answer = call(command, key, ...)
    if WRITES[command] then
      for _, name in ipairs(command == 'DEL' and { key, ... } or { key }) do
        if real.call('EXISTS', name) == 0 then real.call('ZREM', '%ends', name) end
      end
    end
    return answer
  end
end
local redis = { call = shim(real.call), pcall = shim(real.pcall), sha1hex = real.sha1hex }
