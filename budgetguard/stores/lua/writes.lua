-- What is written. The first write adds to what there is: if there is no memory for that, none is made.

do

local A, ACCOUNT, E, KEY, KINDS, MEMBER, UNRESOLVED, clears, forgotten, format, interested, known_needs,
    loaded, not_woken, numbers_dropped, numbers_written, packed, queue_changed, unanswered, woken_changed =
    H.A, H.ACCOUNT, H.E, H.KEY, H.KINDS, H.MEMBER, H.UNRESOLVED, H.clears, H.forgotten, H.format,
    H.interested, H.known_needs, H.loaded, H.not_woken, H.numbers_dropped, H.numbers_written, H.packed,
    H.queue_changed, H.unanswered, H.woken_changed

-- A key that is made anew has no expiry yet.
local written = H.written
local function call(command, key, ...)
    written[key] = true
    return H.call(command, key, ...)
end

local CLEARING = {
    {"first_clears", KEY.clearing}, {"last_clears", KEY.cleared}, {"first_kept", KEY.kept_next},
    {"last_kept", KEY.kept_last},
}
-- When a member is silent. What is stored may be too early: it need not be written with each message, since
-- whoever finds it looks at the member.
local function silent_from(member)
    if not member.hold_for or member.gone then return false end
    local at = member.heard + member.hold_for
    local stored = member.silent_at
    if stored and stored <= at and at - stored < member.hold_for / 4 then return stored end
    return at
end

local function delete_member(member)
    local name = member.name
    for _, key in ipairs({KEY.members, KEY.debits, KEY.words}) do call("HDEL", key, name) end
    for _, key in ipairs({KEY.silence, KEY.unanswered, KEY.clearing, KEY.cleared, KEY.kept_next, KEY.kept_last}) do
        call("ZREM", key, name)
    end
    call("SREM", KEY.interested, name)
    call("SREM", KEY.refreshing, name)
end

local function write_member(member)
    local name = member.name
    if member.debits_changed then
        local debits = member.debits
        if member.first_clears then
            call("HSET", KEY.debits, name, cmsgpack.pack({debits.settled, debits.kept, debits.lost}))
        elseif member.was_clearing[1] then
            call("HDEL", KEY.debits, name)
        end
        for place, column in ipairs(CLEARING) do
            local at, before = member[column[1]], member.was_clearing[place]
            if at and at ~= before then
                call("ZADD", column[2], format("%.17g", at), name)
            elseif before and not at then
                call("ZREM", column[2], name)
            end
        end
    end
    if member.words then call("HSET", KEY.words, name, member.words) end
    if member.is_interested ~= member.was_interested then
        call(member.is_interested and "SADD" or "SREM", KEY.interested, name)
    end
    if member.unanswered_since ~= member.was_unanswered then
        if member.unanswered_since then
            call("ZADD", KEY.unanswered, format("%.17g", member.unanswered_since), name)
        else
            call("ZREM", KEY.unanswered, name)
        end
    end
    if member.waits_for_refresh ~= member.is_waiting then
        call(member.waits_for_refresh and "SADD" or "SREM", KEY.refreshing, name)
        member.is_waiting = member.waits_for_refresh
    end
    if member.silent_at ~= member.was_silent_at then
        if member.silent_at then
            call("ZADD", KEY.silence, format("%.17g", member.silent_at), name)
        else
            call("ZREM", KEY.silence, name)
        end
    end
    call("HSET", KEY.members, name, packed(member, MEMBER))
end

local function write_all()
    local queue = known_needs()
    local changed = {}
    for _, member in pairs(loaded) do
        if member and (member.changed or member.debits_changed) then
            changed[#changed + 1] = member
            member.was_interested, member.was_unanswered = member.is_interested, member.unanswered_since
            member.is_interested = interested(member)
            member.unanswered_since = unanswered(member) and member.asked_at
            A.unanswered = A.unanswered + (member.unanswered_since and 1 or 0) - (member.was_unanswered and 1 or 0)
            if member.debits_changed then
                member.was_clearing = {member.first_clears, member.last_clears, member.first_kept, member.last_kept}
                A.unresolved = A.unresolved - (member.first_kept and 1 or 0)
                member.first_clears, member.last_clears = clears(member.debits, KINDS)
                member.first_kept, member.last_kept = clears(member.debits, UNRESOLVED)
                A.unresolved = A.unresolved + (member.first_kept and 1 or 0)
            end
            member.was_silent_at, member.silent_at = member.silent_at, silent_from(member)
            if member.silent_at then A.reap_at = math.min(A.reap_at, member.silent_at) end
            A.waits_for_refresh = A.waits_for_refresh + (member.waits_for_refresh and 1 or 0)
                - (member.is_waiting and 1 or 0)
        end
    end
    for _, member in ipairs(forgotten) do
        A.unanswered = A.unanswered - (member.unanswered_since and 1 or 0)
        A.waits_for_refresh = A.waits_for_refresh - (member.is_waiting and 1 or 0)
        A.unresolved = A.unresolved - (member.first_kept and 1 or 0)
        not_woken(member.name)
    end
    if queue ~= nil then
        A.waiting = 0
        for _ in pairs(queue) do A.waiting = A.waiting + 1 end
    end
    if H.budgets_loaded then H.count_budgets() end
    if A.evidence_changed then
        H.load_balances()
        H.show()
        call("HSET", KEY.account, "state", packed(A, ACCOUNT), "evidence", cmsgpack.pack(E))
    else
        call("HSET", KEY.account, "state", packed(A, ACCOUNT))
    end
    for _, member in ipairs(forgotten) do
        if member.stored then delete_member(member) end
    end
    for _, member in ipairs(changed) do write_member(member) end
    for name, at in pairs(woken_changed) do
        if at then
            call("HSET", KEY.woken, name, format("%.17g", at))
        else
            call("HDEL", KEY.woken, name)
        end
    end
    for name in pairs(queue_changed) do
        if queue[name] then
            call("HSET", KEY.needs, name, cmsgpack.pack(queue[name]))
        else
            call("HDEL", KEY.needs, name)
        end
    end
    if H.budgets_loaded then
        H.write_budgets()
        written[KEY.budgets], written[KEY.budget_names], written[KEY.budget_members] = true, true, true
    end
    for epoch in pairs(numbers_dropped) do
        for _, field in ipairs(call("HKEYS", KEY.numbers)) do
            if field:match("^(%d+) ") == tostring(epoch) then call("HDEL", KEY.numbers, field) end
        end
    end
    for at = 1, #numbers_written, 2 do call("HSET", KEY.numbers, numbers_written[at], numbers_written[at + 1]) end
end

H.write_all =
    write_all

end
