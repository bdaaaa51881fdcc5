-- What every message does: see shared_head.py.

do

local A, TICK, add_settled, add_unresolved, all_needs, amount_from, before_holds, committed, granting, huge,
    latest, least, minus, plus, positive, same, set_lease, set_needs, set_running, set_slots, set_used, share,
    somebody_waits, ticks_up =
    H.A, H.TICK, H.add_settled, H.add_unresolved, H.all_needs, H.amount_from, H.before_holds, H.committed,
    H.granting, H.huge, H.latest, H.least, H.minus, H.plus, H.positive, H.same, H.set_lease, H.set_needs,
    H.set_running, H.set_slots, H.set_used, H.share, H.somebody_waits, H.ticks_up

local GRACE = 1

local function finish(member, report)
    local at, first = latest(), latest() + TICK
    for _, debit in ipairs(report.settled or {}) do
        add_settled(member, amount_from(debit[1]), math.max(at + debit[2], first))
    end
    for _, kept in ipairs(report.kept or {}) do
        local calls, sessions = {}, {}
        for _, each in ipairs(kept[4]) do calls[each[1]] = each[2] end
        for _, each in ipairs(kept[5]) do sessions[each[1]] = each[2] end
        add_unresolved(member, "kept", amount_from(kept[1]), math.max(at + kept[2], first), kept[3], calls, sessions)
    end
    member.patience = math.max(member.patience, report.patience)
end

local function hear_report(message, member)
    local report, join = message.report, message.join
    if join then H.load_comings() end
    local before = join and join.whole ~= false and plus(member.lease, H.debts(member))
    if join then
        H.join_in(member, join)
    end
    if report.saved and #A.epochs > 0 then
        H.load_balances()
        H.save(member.name, report.saved)
    end
    finish(member, report)
    set_used(member, report.used)
    set_slots(member, report.slots)
    set_running(member, report.running)
    set_lease(member, plus(report.used, report.keep))
    member.floor, member.extra = report.floor, report.extra
    member.recall = math.max(member.recall, report.recall)
    if before then
        local fewer = minus(minus(before, member.lease), H.debts(member))
        if positive(fewer) then
            H.load_balances()
            H.forget_charges(fewer)
        end
    end
end

-- Whether only the tickets of two needs differ.
local function alike(a, b)
    for _, name in ipairs({"amount", "cost", "floor", "extra"}) do
        if not same(a[name], b[name]) then return false end
    end
    if a.slots ~= b.slots or a.counts ~= b.counts or a.reserved ~= b.reserved then return false end
    if #a.budgets ~= #b.budgets then return false end
    for at, each in ipairs(a.budgets) do
        local other = b.budgets[at]
        if not same(each.limit, other.limit) then return false end
        for _, name in ipairs({"budget", "window", "until", "rolling", "admitted"}) do
            if each[name] ~= other[name] then return false end
        end
    end
    return true
end

local function queue_needs(member, needs)
    if #needs == 0 and A.waiting == 0 then return end
    local known, queued, last = {}, {}, nil
    for _, each in ipairs(all_needs()[member.name] or {}) do
        for _, ticket in ipairs(each.tickets) do known[ticket] = each end
    end
    for _, need in ipairs(needs) do
        local before, group = known[need.ticket], queued[#queued]
        if group and before == last and alike(need, group.need) then
            group.tickets[#group.tickets + 1] = need.ticket
        else
            group = {need = need, order = A.next_order, turn = member.turn, tickets = {need.ticket}, told = false}
            -- What members use that have reported nothing since: all others, so far.
            if before then
                group.order, group.turn, group.told = before.order, before.turn, before.told
                group.used, group.slots = before.used, before.slots
            else
                group.used, group.slots = minus(A.used, member.used), A.slots - member.slots
            end
            queued[#queued + 1] = group
        end
        last = before
        if before == nil then A.next_order = A.next_order + 1 end
    end
    set_needs(member.name, queued)
end

local function lend(member, report)
    if not A.figures or not granting() or member.recall < A.recall then return end
    local more = minus(report.want, minus(member.lease, member.used))
    if not positive(more) or A.now < A.calm_until or somebody_waits() then return end
    local free = before_holds(A.figures, report.extra)
    free = minus(minus(free, report.floor), committed())
    if free == huge then
        set_lease(member, plus(member.lease, more))
    elseif positive(free) then
        set_lease(member, plus(member.lease, least(more, share(free, 2 * A.living))))
    end
end

local function begin_refresh(member, message)
    local refresh = A.refresh
    if refresh.in_flight and A.now < refresh.expires and A.refreshing_member ~= member.name then
        member.waits_for_refresh = true
        return "wait"
    end
    if A.now < refresh.blocked_until then return "blocked" end
    if not refresh.in_flight and refresh.last_began > message.refresh_after then return "newer" end
    refresh.number, refresh.last_began, refresh.in_flight = refresh.number + 1, A.now, true
    refresh.expires = A.now + ticks_up(message.refresh_timeout) + GRACE
    A.refreshing_member = member.name
    return "yours"
end

H.begin_refresh, H.hear_report, H.lend, H.queue_needs =
    begin_refresh, hear_report, lend, queue_needs

end
