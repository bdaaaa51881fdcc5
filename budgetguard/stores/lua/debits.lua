-- Debits in buckets of time: see debits.py. A list of buckets, the one that clears first at the front.
-- A bucket's place in time follows from when it clears, so it is not stored.

local add_counts, subtract_counts, add_debit, pack_debits, unpack_debits
do

local BUCKETS_PER_SECOND, MOST_BUCKETS = 16, 64

local function place_in_time(bucket) return floor(bucket.clears_at * BUCKETS_PER_SECOND) end

function add_counts(counts, more)
    if more == nil or next(more) == nil then return counts end
    local sum = {}
    for cause, count in pairs(counts or {}) do sum[cause] = count end
    for cause, count in pairs(more) do
        local total = (sum[cause] or 0) + count
        sum[cause] = total ~= 0 and total or nil
    end
    return sum
end

function subtract_counts(counts, fewer)
    for cause, count in pairs(fewer or {}) do
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

local function join_neighbours(buckets)
    local places, span = {}, 1
    for at, bucket in ipairs(buckets) do places[at] = place_in_time(bucket) end
    local last = last_of_each(places, span)
    while #last > floor(MOST_BUCKETS / 2) do
        span = span * 2
        last = last_of_each(places, span)
    end
    local joined, run = {}, 1
    local amount, slots, calls, sessions = 0, 0, nil, nil
    for at, bucket in ipairs(buckets) do
        amount, slots = plus(amount, bucket.amount), slots + bucket.slots
        calls, sessions = add_counts(calls, bucket.calls), add_counts(sessions, bucket.sessions)
        if places[at] == last[run] then
            bucket.amount, bucket.slots, bucket.calls, bucket.sessions = amount, slots, calls, sessions
            joined[run] = bucket
            run, amount, slots, calls, sessions = run + 1, 0, 0, nil, nil
        end
    end
    for at = #buckets, 1, -1 do buckets[at] = joined[at] end
end

function add_debit(buckets, amount, clears_at, slots)
    local place, at = floor(clears_at * BUCKETS_PER_SECOND), #buckets
    while at > 0 and place_in_time(buckets[at]) > place do at = at - 1 end
    local bucket = buckets[at]
    if bucket == nil or place_in_time(bucket) ~= place then
        if #buckets >= MOST_BUCKETS then
            join_neighbours(buckets)
            at = #buckets
            while at > 0 and place_in_time(buckets[at]) > place do at = at - 1 end
        end
        bucket = {clears_at = clears_at, amount = 0, slots = 0}
        table.insert(buckets, at + 1, bucket)
    elseif bucket.clears_at < clears_at then
        bucket.clears_at = clears_at
    end
    bucket.amount, bucket.slots = plus(bucket.amount, amount), bucket.slots + slots
    return bucket
end

-- Written flat: a bucket of calls whose cost is known is two numbers.

function pack_debits(debits)
    local settled = {}
    for _, bucket in ipairs(debits.settled) do
        settled[#settled + 1] = bucket.clears_at * TICKS
        settled[#settled + 1] = bucket.amount
    end
    local parts = {settled}
    for part, name in ipairs({"kept", "lost"}) do
        local buckets = {}
        for at, bucket in ipairs(debits[name]) do
            buckets[at] = {bucket.clears_at * TICKS, bucket.amount, bucket.slots, bucket.calls or false, bucket.sessions or false}
        end
        parts[part + 1] = buckets
    end
    return cmsgpack.pack(parts)
end

function unpack_debits(text)
    local debits = {settled = {}, kept = {}, lost = {}}
    if not text then return debits end
    local parts = cmsgpack.unpack(text)
    local settled = parts[1]
    for at = 1, #settled, 2 do
        debits.settled[(at + 1) / 2] = {clears_at = settled[at] / TICKS, amount = settled[at + 1], slots = 0}
    end
    for part, name in ipairs({"kept", "lost"}) do
        for at, bucket in ipairs(parts[part + 1]) do
            debits[name][at] = {
                clears_at = bucket[1] / TICKS, amount = bucket[2], slots = bucket[3],
                calls = bucket[4] or nil, sessions = bucket[5] or nil,
            }
        end
    end
    return debits
end

end
