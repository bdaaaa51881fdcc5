-- Debits in buckets of time: see debits.py. Columns, the bucket that clears first at the front: `ticks` is when
-- each clears, `amounts`; and unless all are of calls whose cost is known, `slots`, `calls` and `sessions`, which
-- count by cause. A bucket's place in time follows from when it clears, so it is not stored.

do

local TICKS, floor, plus =
    H.TICKS, H.floor, H.plus

local TICKS_OF_BUCKET, MOST_BUCKETS = 2^16, 64

local function new_debits(counted)
    local debits = {ticks = {}, amounts = {}}
    if counted then debits.slots, debits.calls, debits.sessions = {}, {}, {} end
    return debits
end

local function place_of(ticks) return floor(ticks / TICKS_OF_BUCKET) end

local function add_counts(counts, more)
    if next(more) == nil then return counts end
    local sum = {}
    for cause, count in pairs(counts) do sum[cause] = count end
    for cause, count in pairs(more) do
        local total = (sum[cause] or 0) + count
        sum[cause] = total ~= 0 and total or nil
    end
    return sum
end

local function subtract_counts(counts, fewer)
    for cause, count in pairs(fewer) do
        local left = (counts[cause] or 0) - count
        counts[cause] = left > 0 and left or nil
    end
end

local function last_of_each(places, span)
    local first, last = places[1], {places[1]}
    for _, place in ipairs(places) do
        if place - first <= span then
            last[#last] = place
        else
            first = place
            last[#last + 1] = place
        end
    end
    return last
end

local function join_neighbours(debits)
    local places, span = {}, 1
    for at, ticks in ipairs(debits.ticks) do places[at] = place_of(ticks) end
    local last = last_of_each(places, span)
    while #last > floor(MOST_BUCKETS / 2) do
        span = span * 2
        last = last_of_each(places, span)
    end
    local counted, run = debits.slots ~= nil, 1
    local joined = new_debits(counted)
    local amount, slots, calls, sessions = 0, 0, {}, {}
    for at, place in ipairs(places) do
        amount = plus(amount, debits.amounts[at])
        if counted then
            slots = slots + debits.slots[at]
            calls, sessions = add_counts(calls, debits.calls[at]), add_counts(sessions, debits.sessions[at])
        end
        if place == last[run] then
            joined.ticks[run], joined.amounts[run] = debits.ticks[at], amount
            if counted then
                joined.slots[run], joined.calls[run], joined.sessions[run] = slots, calls, sessions
            end
            run, amount, slots, calls, sessions = run + 1, 0, 0, {}, {}
        end
    end
    for column, values in pairs(joined) do debits[column] = values end
end

-- `calls` and `sessions` are nil where the cost is known.
local function add_debit(debits, amount, clears_at, slots, calls, sessions)
    local ticks = clears_at * TICKS
    local place = place_of(ticks)
    local at = #debits.ticks
    while at > 0 and place_of(debits.ticks[at]) > place do at = at - 1 end
    if at == 0 or place_of(debits.ticks[at]) ~= place then
        if #debits.ticks >= MOST_BUCKETS then
            join_neighbours(debits)
            at = #debits.ticks
            while at > 0 and place_of(debits.ticks[at]) > place do at = at - 1 end
        end
        at = at + 1
        table.insert(debits.ticks, at, ticks)
        table.insert(debits.amounts, at, 0)
        if calls then
            table.insert(debits.slots, at, 0)
            table.insert(debits.calls, at, {})
            table.insert(debits.sessions, at, {})
        end
    elseif debits.ticks[at] < ticks then
        debits.ticks[at] = ticks
    end
    debits.amounts[at] = plus(debits.amounts[at], amount)
    if calls then
        debits.slots[at] = debits.slots[at] + slots
        debits.calls[at] = add_counts(debits.calls[at], calls)
        debits.sessions[at] = add_counts(debits.sessions[at], sessions)
    end
end

-- Without the first so many buckets.
local function drop_first(debits, count)
    local left = {}
    for column, values in pairs(debits) do
        left[column] = {}
        for at = count + 1, #values do left[column][at - count] = values[at] end
    end
    return left
end

H.add_counts, H.add_debit, H.drop_first, H.new_debits, H.subtract_counts =
    add_counts, add_debit, drop_first, new_debits, subtract_counts

end
