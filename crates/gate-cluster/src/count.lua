-- A count in a window that several gates share. KEYS[1] holds, for each gate, what it has taken (its name) and given back
-- (its name and "-") in this window, both only growing; the key's own expiry is the window's end.
--
-- ARGV: the gate, what it says it has taken and given back, the total that it last heard, milliseconds left of the window
-- that it knows (0: none), what it needs now, what it would like, the amount, the window in milliseconds.
-- Answer: what the gate has taken now, what it was granted just now, the total, milliseconds left.
--
-- A gate's own numbers are merged by the larger one, so to say them twice or too late changes nothing, and a store that
-- has lost them learns them again. What gates that have not come back yet had taken is in "floor": the highest total
-- that a gate knew whom the store did not know.
local key, gate = KEYS[1], ARGV[1]
local n = {}
for i = 2, 9 do n[i] = tonumber(ARGV[i]) end
local taken, back, known, left, need, wish, amount, window = n[2], n[3], n[4], n[5], n[6], n[7], n[8], n[9]

local fields = redis.call('HGETALL', key)
local sum, floor, taken_here, back_here, is_known = 0, 0, 0, 0, false
for i = 1, #fields, 2 do
  local name, number = fields[i], tonumber(fields[i + 1])
  if name == 'floor' then
    floor = number
  elseif string.sub(name, -1) == '-' then
    sum = sum - number
    if name == gate .. '-' then back_here = number end
  else
    sum = sum + number
    if name == gate then taken_here, is_known = number, true end
  end
end

local more = math.max(taken, taken_here) - taken_here
local less = math.max(back, back_here) - back_here
sum = sum + more - less
if is_known then
  if floor > 0 then floor = floor + more - less end
elseif known > 0 then
  floor = math.max(floor, known)
end
local total = math.max(sum, floor)

local granted = 0
if need > 0 and total + need <= amount then granted = math.min(math.max(need, wish), amount - total) end
if floor > 0 then floor = floor + granted end
total = total + granted
taken = math.max(taken, taken_here) + granted

redis.call('HSET', key, gate, taken)
if back > back_here then redis.call('HSET', key, gate .. '-', back) end
if floor > 0 then redis.call('HSET', key, 'floor', floor) end
local ends = redis.call('PTTL', key)
if ends < 0 then
  ends = window
  if left > 0 and left < window then ends = left end
  redis.call('PEXPIRE', key, ends)
end
return { taken, granted, total, ends }
