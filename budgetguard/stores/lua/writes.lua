-- What is written. The first write adds to what there is: if there is no memory for that, none is made.

local forget_member, write_all
do

local forgotten = {}

function forget_member(member)
    forgotten[#forgotten + 1] = member
    loaded[member.name] = false
end

local function delete_member(member)
    local name = member.name
    for _, key in ipairs({KEY.members, KEY.debits, KEY.replies, KEY.words}) do call("HDEL", key, name) end
    for _, key in ipairs({KEY.silence, KEY.unanswered, KEY.clearing, KEY.cleared, KEY.kept_next, KEY.kept_last}) do
        call("ZREM", key, name)
    end
    call("SREM", KEY.interested, name)
    call("SREM", KEY.refreshing, name)
end

local function write_member(member)
    local name = member.name
    if member.debits_changed then
        local first, last = clears(member.debits, KINDS)
        local kept_first, kept_last = clears(member.debits, {"kept", "lost"})
        if first then
            call("HSET", KEY.debits, name, pack_debits(member.debits))
        elseif member.has_debits then
            call("HDEL", KEY.debits, name)
        end
        for _, each in ipairs({{KEY.clearing, first}, {KEY.cleared, last}, {KEY.kept_next, kept_first}, {KEY.kept_last, kept_last}}) do
            if each[2] then
                call("ZADD", each[1], format("%.17g", each[2]), name)
            elseif member.has_debits then
                call("ZREM", each[1], name)
            end
        end
        member.has_debits = first ~= nil
    end
    if member.reply_changed then call("HSET", KEY.replies, name, member.reply) end
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
    if member.hold_for and not member.gone then
        call("ZADD", KEY.silence, format("%.17g", member.heard + member.hold_for), name)
    else
        call("ZREM", KEY.silence, name)
    end
    call("HSET", KEY.members, name, packed(member, MEMBER))
end

function write_all()
    local changed = {}
    for _, member in pairs(loaded) do
        if member and (member.changed or member.debits_changed) then
            changed[#changed + 1] = member
            member.was_interested, member.was_unanswered = member.is_interested, member.unanswered_since
            member.is_interested = interested(member)
            member.unanswered_since = unanswered(member) and member.asked_at
            A.unanswered = A.unanswered + (member.unanswered_since and 1 or 0) - (member.was_unanswered and 1 or 0)
            A.waits_for_refresh = A.waits_for_refresh + (member.waits_for_refresh and 1 or 0)
                - (member.is_waiting and 1 or 0)
        end
    end
    for _, member in ipairs(forgotten) do
        A.unanswered = A.unanswered - (member.unanswered_since and 1 or 0)
        A.waits_for_refresh = A.waits_for_refresh - (member.is_waiting and 1 or 0)
    end
    if queue ~= nil then
        A.waiting = 0
        for _ in pairs(queue) do A.waiting = A.waiting + 1 end
    end
    count_budgets()
    if evidence_changed then
        call("HSET", KEY.account, "state", packed(A, ACCOUNT), "evidence", cmsgpack.pack(E))
    else
        call("HSET", KEY.account, "state", packed(A, ACCOUNT))
    end
    for _, member in ipairs(forgotten) do
        if member.stored then delete_member(member) end
    end
    for _, member in ipairs(changed) do write_member(member) end
    for name in pairs(queue_changed) do
        if queue[name] then
            call("HSET", KEY.needs, name, cmsgpack.pack(queue[name]))
        else
            call("HDEL", KEY.needs, name)
        end
    end
    write_budgets()
    for epoch in pairs(numbers_dropped) do
        for _, field in ipairs(call("HKEYS", KEY.numbers)) do
            if field:match("^(%d+) ") == tostring(epoch) then call("HDEL", KEY.numbers, field) end
        end
    end
    for at = 1, #numbers_written, 2 do call("HSET", KEY.numbers, numbers_written[at], numbers_written[at + 1]) end
end

end
