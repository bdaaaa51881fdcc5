-- What a member sees after a message.

do

local A, KEY, KINDS, NEVER, TICKS, UNRESOLVED, call, clears, debits_of, find, format, from_account, granting,
    granting_at, in_budget, json_counts, json_list, json_number, json_object, less, loaded, minus,
    missing_members, pending, plus, put, put_number, put_time, quoted, same, somebody_waits, waiting_needs, times =
    H.A, H.KEY, H.KINDS, H.NEVER, H.TICKS, H.UNRESOLVED, H.call, H.clears, H.debits_of, H.find, H.format,
    H.from_account, H.granting, H.granting_at, H.in_budget, H.json_counts, H.json_list, H.json_number,
    H.json_object, H.less, H.loaded, H.minus, H.missing_members, H.pending, H.plus, H.put, H.put_number,
    H.put_time, H.quoted, H.same, H.somebody_waits, H.waiting_needs, H.times

local MOST_DEBITS_SHOWN = 32

-- The first or last of the times in a sorted set, as it will be when this message is written.
local function extreme(key, command, kinds, place, better, stored_any)
    local found
    for _, member in pairs(loaded) do
        if member and member.debits_changed then
            local at = select(place, clears(member.debits, kinds))
            if at and (found == nil or better(at, found)) then found = at end
        end
    end
    if not stored_any then return found end
    local from = 0
    while true do
        local stored = call(command, key, from, from + 7, "WITHSCORES")
        for at = 1, #stored, 2 do
            local member = loaded[stored[at]]
            if member == nil or (member and not member.debits_changed) then
                local score = tonumber(stored[at + 1])
                if found == nil or better(score, found) then found = score end
                return found
            end
        end
        if #stored < 16 then return found end
        from = from + 8
    end
end
local function sooner(a, b) return a < b end
local function later(a, b) return a > b end

-- When debits clear, with credits and slots. Whoever is among the first has a debit among the first, so the
-- others need not be read.
local function json_debits()
    local changed = {}
    for name, member in pairs(loaded) do
        if member and member.debits_changed then changed[#changed + 1] = name end
    end
    local border = call("ZRANGE", KEY.clearing, MOST_DEBITS_SHOWN + #changed, MOST_DEBITS_SHOWN + #changed, "WITHSCORES")
    local names = call("ZRANGEBYSCORE", KEY.clearing, "-inf", border[2] or "+inf")
    local members = {}
    for _, name in ipairs(names) do members[name] = find(name) end
    for _, name in ipairs(changed) do members[name] = loaded[name] end
    local each = {}
    for _, member in pairs(members) do
        for _, kind in ipairs(KINDS) do
            local debits = debits_of(member)[kind]
            for at, ticks in ipairs(debits.ticks) do
                local slots = debits.slots and debits.slots[at] or 0
                each[#each + 1] = {clears_at = ticks / TICKS, amount = debits.amounts[at], slots = slots}
            end
        end
    end
    table.sort(each, function(a, b)
        if a.clears_at ~= b.clears_at then return a.clears_at < b.clears_at end
        if not same(a.amount, b.amount) then return less(a.amount, b.amount) end
        return a.slots < b.slots
    end)
    local whole = border[2] == nil and #each <= MOST_DEBITS_SHOWN
    local texts, amount, slots = {}, pending(), A.kept_slots
    for at = 1, whole and #each or MOST_DEBITS_SHOWN - 1 do
        local bucket = each[at]
        texts[at] = "[" .. json_number(bucket.clears_at) .. "," .. json_number(bucket.amount) .. "," .. json_number(bucket.slots) .. "]"
        amount, slots = minus(amount, bucket.amount), slots - bucket.slots
    end
    if not whole then
        local last = extreme(KEY.cleared, "ZREVRANGE", KINDS, 2, later, true)
        texts[#texts + 1] = "[" .. json_number(last) .. "," .. json_number(amount) .. "," .. json_number(slots) .. "]"
    end
    return "[" .. table.concat(texts, ",") .. "]"
end

local function json_refresh(refresh)
    local object = {}
    put_number(object, "number", refresh.number)
    put_time(object, "last_began", refresh.last_began)
    if refresh.in_flight then put(object, "in_flight", "true") end
    put_time(object, "expires", refresh.expires)
    put_time(object, "blocked_until", refresh.blocked_until)
    put_number(object, "failures", refresh.failures)
    if refresh.reason ~= "" then put(object, "reason", quoted(refresh.reason)) end
    if refresh.denied then put(object, "denied", "true") end
    return json_object(object)
end

local function json_view(name, report, with_debits)
    if A.evidence_changed then
        H.load_balances()
        H.show()
    end
    local queued, queued_slots = 0, 0
    for _, each in ipairs(waiting_needs()) do
        local need = each[2].need
        if each[1] ~= name and need.counts and in_budget(need) then
            local callers = #each[2].tickets
            queued = plus(queued, times(from_account(need), callers))
            queued_slots = queued_slots + need.slots * callers
        end
    end
    local silent, missing_until = missing_members(), NEVER
    for _, member in ipairs(silent) do
        missing_until = math.max(missing_until, member.heard + (member.hold_for or 0))
    end
    local view = {}
    put(view, "now", json_number(A.now))
    put_number(view, "dropped", A.dropped)
    put_number(view, "behind", A.behind)
    if A.snapshot_json ~= "" then put(view, "snapshot", A.snapshot_json) end
    put_number(view, "balances", A.balances)
    put_number(view, "leased", A.leased)
    put_number(view, "used", A.used)
    put_number(view, "running", A.running)
    put_number(view, "members", A.living)
    put_number(view, "missing", #silent)
    put_time(view, "missing_until", missing_until)
    put_number(view, "settled", A.settled)
    put_number(view, "kept", A.kept)
    put_number(view, "kept_slots", A.kept_slots)
    if next(A.kept_calls) ~= nil then put(view, "kept_calls", json_counts(A.kept_calls)) end
    if next(A.kept_sessions) ~= nil then put(view, "kept_sessions", json_counts(A.kept_sessions)) end
    put_time(view, "kept_next", extreme(KEY.kept_next, "ZRANGE", UNRESOLVED, 1, sooner, A.unresolved > 0))
    put_time(view, "kept_last", extreme(KEY.kept_last, "ZREVRANGE", UNRESOLVED, 2, later, A.unresolved > 0))
    put_number(view, "slots", A.slots)
    if with_debits then put(view, "debits", json_debits()) end
    put_time(view, "busy_until", A.busy_until)
    if #A.limited > 0 then
        put(view, "limited", json_list(A.limited, function(each) return "[" .. quoted(each[1]) .. "," .. json_number(each[2]) .. "]" end))
    end
    if #A.pauses > 0 then
        put(view, "pauses", json_list(A.pauses, function(each) return "[" .. quoted(each[1]) .. "," .. quoted(each[2]) .. "]" end))
    end
    put(view, "refresh", json_refresh(A.refresh))
    put(view, "others", A.others_json)
    put_number(view, "recall", A.recall)
    if A.now < A.calm_until or somebody_waits() then put(view, "exact", "true") end
    if not granting() then put(view, "granting", "false") end
    put(view, "granting_at", json_number(granting_at()))
    put_number(view, "holders", A.holders)
    put_number(view, "slot_holders", A.slot_holders)
    put_number(view, "queued", queued)
    put_number(view, "queued_slots", queued_slots)
    if report then
        local names, seen = {}, {}
        local function mention(each)
            if not seen[each.budget] then
                seen[each.budget] = true
                names[#names + 1] = each.budget
            end
        end
        for _, need in ipairs(report.needs) do
            for _, each in ipairs(need.budgets) do mention(each) end
        end
        for _, use in ipairs(report.budgets) do mention(use) end
        local texts = {}
        for _, budget in ipairs(names) do texts[#texts + 1] = H.budget_view(budget) end
        if #texts > 0 then put(view, "budgets", "[" .. table.concat(texts, ",") .. "]") end
    end
    return json_object(view)
end

H.json_view =
    json_view

end
