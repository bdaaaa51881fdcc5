-- The head: see shared_head.py, which this does step by step. Nothing is decided here that is not decided there.

do

local A, E, KEY, KINDS, MOST_CHECKPOINTS, NEVER, TICK, add_settled, add_unresolved, all_members, all_needs,
    amount_from, apply, before_holds, budgets_without, call, clears, copy, cost_less, count_spender, debits_of,
    drop_all, drop_numbers, find, forget_charges, forget_member, format, huge, in_unit, interested, known,
    least, less, limit_key, loaded, may_free, minus, most, names_with, no_refresh, note_numbers, over_budget,
    pause, pending, plus, positive, refuse, same, set_lease, set_needs, set_running, set_slots, set_used,
    share, snapshot_from, take_budgets, ticks_down, ticks_up, unanswered =
    H.A, H.E, H.KEY, H.KINDS, H.MOST_CHECKPOINTS, H.NEVER, H.TICK, H.add_settled, H.add_unresolved,
    H.all_members, H.all_needs, H.amount_from, H.apply, H.before_holds, H.budgets_without, H.call, H.clears,
    H.copy, H.cost_less, H.count_spender, H.debits_of, H.drop_all, H.drop_numbers, H.find, H.forget_charges,
    H.forget_member, H.format, H.huge, H.in_unit, H.interested, H.known, H.least, H.less, H.limit_key,
    H.loaded, H.may_free, H.minus, H.most, H.names_with, H.no_refresh, H.note_numbers, H.over_budget, H.pause,
    H.pending, H.plus, H.positive, H.refuse, H.same, H.set_lease, H.set_needs, H.set_running, H.set_slots,
    H.set_used, H.share, H.snapshot_from, H.take_budgets, H.ticks_down, H.ticks_up, H.unanswered

local RECALL_PATIENCE, QUEUE_PATIENCE, CALM, GRACE, MOST_DEBITS_SHOWN = 1, 2, 0.25, 1, 32
local MOST_BEHIND, UNVOUCHED = 20, 2^30
local DIED = "ProcessDied"

local woken = {}                -- the members that should send a message soon
local function wake_all(names) for name in pairs(names) do woken[name] = true end end

local function latest() return A.now + A.behind end

-- The clock: see virtual_clock.py.
local function advance(server, seen, dropped, elapsed, alone)
    server = ticks_down(server)
    local before = A.server
    A.server = server
    if not before then return end
    local step, vouched = math.max(server - before, 0), nil
    if seen == NEVER then
        vouched = alone and step or 0
    else
        vouched = math.max(seen + ticks_down(elapsed) - (A.dropped - dropped) - A.now, 0)
    end
    local by = math.min(step, vouched)
    A.now = A.now + by
    A.behind = math.min(step - by, MOST_BEHIND)
    A.server = server - A.behind
    if server < before then A.dropped = A.dropped + (vouched ~= 0 and vouched or UNVOUCHED) end
    A.dropped = A.dropped + (step - by - A.behind)
end

-- What is known.

local function committed() return plus(A.leased, pending()) end
local function slots_in_use() return A.slots + A.kept_slots end
local function granting() return next(A.awaited) == nil and A.now >= A.regroup end

local function granting_at()
    local at = A.regroup
    for name in pairs(A.awaited) do
        local member = find(name)
        if member == nil or not member.hold_for then return nil end
        at = math.max(at, member.heard + member.hold_for)
    end
    return at
end

local function answers(member) return A.now - member.heard <= QUEUE_PATIENCE end

local function missing(member)
    return unanswered(member) and A.now >= member.asked_at + RECALL_PATIENCE
end

local function in_budget(need) return #need.budgets == 0 or over_budget(need) == nil end

-- The needs of all members that answer, in order of arrival: lists of the member's name, and the need.
local NONE = {}
local function earlier(a, b) return a[2].order < b[2].order end
local function waiting_needs()
    local all = all_needs()
    if next(all) == nil then return NONE end
    local waiting = {}
    for name, needs in pairs(all) do
        if answers(find(name)) then
            for _, queued in ipairs(needs) do waiting[#waiting + 1] = {name, queued} end
        end
    end
    table.sort(waiting, earlier)
    return waiting
end

local function somebody_waits()
    for _, each in ipairs(waiting_needs()) do
        if in_budget(each[2].need) then return true end
    end
    return false
end

local function members_in(names)
    local found = {}
    for name in pairs(names) do
        local member = find(name)
        if member then found[#found + 1] = member end
    end
    return found
end

local function interested_names() return names_with(KEY.interested, interested) end

local function bound_overlap()
    local snapshot, all = E.snapshot, committed()
    if snapshot and less(all, most(snapshot.overlap, snapshot.ceiling_overlap)) then
        local new = copy(snapshot)
        new.overlap, new.ceiling_overlap = least(snapshot.overlap, all), least(snapshot.ceiling_overlap, all)
        E.snapshot, A.evidence_changed = new, true
    end
end

-- What is left for one need after another, in order of arrival.

local function new_line()
    return {committed = committed(), slots = slots_in_use(), ahead = 0, slots_ahead = 0, others = {}}
end

local function from_account(need) return need.reserved and 0 or need.amount end

local function left_in(line, need)
    return minus(minus(minus(before_holds(E.snapshot, need.extra), need.floor), line.committed), line.ahead)
end

local function others_in(line, turn)
    local found = line.others[turn]
    if found == nil then
        found = {members = {}, credits = 0, slots = 0}
        for _, member in ipairs(all_members()) do
            local told = member.turn >= turn
            local may = told and minus(member.lease, member.used) or member.lease
            local sessions = told and 0 or member.slots
            if (positive(may) or sessions ~= 0) and not missing(member) then
                found.members[#found.members + 1] = member
                found.credits, found.slots = plus(found.credits, may), found.slots + sessions
            end
        end
        line.others[turn] = found
    end
    return found
end

local function has_slots(line, need, fewer)
    return need.slots == 0 or line.slots + line.slots_ahead - fewer + need.slots <= E.snapshot.slots
end

local function fits(line, need)
    if not E.snapshot or not granting() then return false end
    local amount = from_account(need)
    return (same(amount, 0) or not less(left_in(line, need), amount)) and has_slots(line, need, 0)
end

local function pass_by(line, need)
    if need.counts then
        line.ahead = plus(line.ahead, from_account(need))
        line.slots_ahead = line.slots_ahead + need.slots
    end
end

-- Grants.

local function is_final(need) return granting() and not (need.counts and may_free(need)) end

local function who_fits(besides)
    local found = {}
    if not E.snapshot or not granting() then return found end
    local line = new_line()
    for _, each in ipairs(waiting_needs()) do
        local name, need = each[1], each[2].need
        if not in_budget(need) then
            if name ~= besides and is_final(need) then found[name] = true end
        else
            if name ~= besides and not found[name] and fits(line, need) then found[name] = true end
            pass_by(line, need)
        end
    end
    return found
end

local function recall_all()
    for _, member in ipairs(all_members()) do
        if positive(member.lease) or member.slots ~= 0 then
            if member.recall >= A.recall then member.asked_at = A.now end
            member.changed = true
        end
    end
    A.recall = A.recall + 1
    A.calm_until = math.max(A.calm_until, A.now + CALM)
end

local function recall_for(queued, line)
    local need = queued.need
    local free, amount = left_in(line, need), from_account(need)
    local lacks = positive(amount) and less(free, amount)
    if lacks then A.calm_until = A.now + CALM end
    local others = others_in(line, queued.turn)
    if lacks and less(plus(free, others.credits), amount) then return false end
    if not has_slots(line, need, others.slots) then return false end
    local heard = true
    for _, member in ipairs(others.members) do heard = heard and member.recall >= A.recall end
    if heard then recall_all() end
    for _, member in ipairs(others.members) do woken[member.name] = true end
    return true
end

local function drop_need(member, ticket)
    local left = {}
    for _, queued in ipairs(all_needs()[member.name] or {}) do
        if queued.need.ticket ~= ticket then left[#left + 1] = queued end
    end
    set_needs(member.name, left)
end

local function grant(member, answer)
    local waiting = waiting_needs()
    if #waiting == 0 then return end
    local line = new_line()
    for _, each in ipairs(waiting) do
        local mine, queued = each[1] == member.name, each[2]
        local need = queued.need
        local over = #need.budgets > 0 and over_budget(need) or nil
        local passes = true
        if over ~= nil then
            passes = false
            if mine and is_final(need) then
                answer.over[#answer.over + 1] = {need.ticket, over}
                drop_need(member, need.ticket)
            end
        elseif mine and fits(line, need) then
            passes = false
            local drawn = need.reserved and 0 or need.cost
            answer.granted[#answer.granted + 1] = need.ticket
            drop_need(member, need.ticket)
            set_lease(member, plus(member.lease, drawn))
            set_used(member, plus(member.used, drawn))
            set_slots(member, member.slots + need.slots)
            set_running(member, member.running + 1)
            if #need.budgets > 0 then
                answer.windows[#answer.windows + 1] = {need.ticket, take_budgets(member.name, need)}
            end
            line.committed, line.slots = plus(line.committed, drawn), line.slots + need.slots
        elseif mine and granting() and E.snapshot and not recall_for(queued, line) then
            answer.refused[#answer.refused + 1] = need.ticket
            if not need.counts then drop_need(member, need.ticket) end
        end
        if passes then pass_by(line, need) end
    end
end

local function lend(member, report)
    if not E.snapshot or not granting() or member.recall < A.recall then return end
    local more = minus(report.want, minus(member.lease, member.used))
    if not positive(more) or A.now < A.calm_until or somebody_waits() then return end
    local free = before_holds(E.snapshot, report.extra)
    free = minus(minus(free, report.floor), committed())
    if free == huge then
        set_lease(member, plus(member.lease, more))
    elseif positive(free) then
        set_lease(member, plus(member.lease, least(more, share(free, 2 * A.living))))
    end
end

-- Members.

local function settle_on_a_setting()
    local setting = "auto"
    if A.spenders.no > 0 then setting = false elseif A.spenders.yes > 0 then setting = true end
    if E.setting ~= setting then E.setting, A.evidence_changed = setting, true end
end

local function drop_refresh()
    A.refresh.last_began = E.snapshot and E.snapshot.mono or NEVER
    A.refresh.in_flight = false
end

local function waiting_for_refresh()
    return names_with(KEY.refreshing, function(member) return member.waits_for_refresh end)
end

local function end_refresh_of(name)
    if name ~= A.refreshing_member or not A.refresh.in_flight then return {} end
    drop_refresh()
    return waiting_for_refresh()
end

local function die(member, at)
    if not same(member.lease, 0) or member.slots ~= 0 then
        local sessions = member.slots ~= 0 and {[DIED] = member.slots} or {}
        local calls = {[DIED] = math.max(member.running, 1)}
        add_unresolved(member, "lost", member.lease, at + member.patience, member.slots, calls, sessions)
    end
    set_lease(member, 0)
    set_used(member, 0)
    set_slots(member, 0)
    set_running(member, 0)
    set_needs(member.name, {})
    if not member.gone then
        A.living = A.living - 1
        count_spender(member, -1)
    end
    member.gone, member.waits_for_refresh = true, false
end

local function forget_the_gone()
    for _, member in pairs(loaded) do
        if member and member.gone and (member.changed or member.debits_changed) then
            if not clears(debits_of(member), KINDS) then forget_member(member) end
        end
    end
end

local function reap()
    if A.now < A.reap_at then return end
    local names = call("ZRANGEBYSCORE", KEY.silence, "-inf", format("%.17g", A.now))
    local first = call("ZRANGEBYSCORE", KEY.silence, "(" .. format("%.17g", A.now), "+inf", "WITHSCORES", "LIMIT", 0, 1)
    A.reap_at = first[2] and tonumber(first[2]) or huge
    local found, refresher = false, false
    for _, name in ipairs(names) do
        local member = find(name)
        member.changed = true
        if A.now >= member.heard + member.hold_for then
            die(member, latest())
            budgets_without(name, true)
            A.awaited[name] = nil
            found, refresher = true, refresher or name == A.refreshing_member
        end
    end
    if not found then return end
    local waiting = refresher and end_refresh_of(A.refreshing_member) or {}
    settle_on_a_setting()
    forget_the_gone()
    wake_all(who_fits(""))
    wake_all(waiting)
end

local function come_back(member, whole)
    if member.gone then
        A.living = A.living + 1
        count_spender(member, 1)
        member.gone = false
    end
    drop_all(member, "lost")
    if whole then
        drop_all(member, "settled")
        drop_all(member, "kept")
    end
end

local function join_in(member, join)
    A.awaited[member.name] = nil
    come_back(member, join.whole ~= false)
    member.hold_for = join.hold_for and ticks_up(join.hold_for) or false
    count_spender(member, -1)
    member.sole_spender = join.sole_spender
    count_spender(member, 1)
    member.words, member.format = join.words, join.format
    if join.topup_step ~= nil then E.topup_step, A.evidence_changed = amount_from(join.topup_step), true end
    if not A.unit and join.unit then A.unit = join.unit end
    settle_on_a_setting()
end

local function debts(member)
    local total = 0
    for _, kind in ipairs(KINDS) do
        for _, amount in ipairs(debits_of(member)[kind].amounts) do total = plus(total, amount) end
    end
    return total
end

local function save(name, saved)
    if #A.epochs == 0 then return end
    for _, each in ipairs(saved) do
        local number, by, first = each[1], amount_from(each[2]), nil
        for _, epoch in ipairs(A.epochs) do
            local known = tonumber(call("HGET", KEY.numbers, epoch .. " " .. name) or 0)
            if known >= number and (first == nil or epoch < first) then first = epoch end
        end
        if first ~= nil then cost_less(first, by) end
    end
end

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

local function hear_report(message, member, last_turn)
    local report, join = message.report, message.join
    local heard_recall = report.recall > member.recall
    local before = join and join.whole ~= false and plus(member.lease, debts(member))
    if join then join_in(member, join) end
    save(member.name, report.saved or {})
    finish(member, report)
    set_used(member, report.used)
    set_slots(member, report.slots)
    set_running(member, report.running)
    set_lease(member, plus(report.used, report.keep))
    member.floor, member.extra = report.floor, report.extra
    member.recall = math.max(member.recall, report.recall)
    if before then
        local fewer = minus(minus(before, member.lease), debts(member))
        if positive(fewer) then forget_charges(fewer) end
    end
    for name, needs in pairs(all_needs()) do
        if heard_recall or needs[#needs].turn > last_turn then woken[name] = true end
    end
end

local function queue_needs(member, needs)
    if #needs == 0 and A.waiting == 0 then return end
    local places, queued = {}, {}
    for _, each in ipairs(all_needs()[member.name] or {}) do places[each.need.ticket] = each end
    for at, need in ipairs(needs) do
        local known_ = places[need.ticket]
        if known_ == nil then
            known_ = {order = A.next_order, turn = member.turn}
            A.next_order = A.next_order + 1
        end
        known_.need = need
        queued[at] = known_
    end
    set_needs(member.name, queued)
end

-- Balances and other news.

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

local function note_change()
    A.balances = A.balances + 1
    if E.changed then A.changes = A.changes + 1 end
end

local function adopt_balance(snapshot)
    local before = E.epoch
    if not apply(snapshot, A.now, A.leased) then return end
    note_change()
    if E.epoch ~= before then
        note_numbers(before)
        while #A.epochs > MOST_CHECKPOINTS do drop_numbers(table.remove(A.epochs, 1)) end
    end
end

local function land(name, landing)
    local refresh = A.refresh
    if landing.epoch ~= A.epoch or landing.number ~= refresh.number or name ~= A.refreshing_member then return end
    if not refresh.in_flight then return end
    local snapshot, reason
    if landing.balance ~= nil then
        snapshot = in_unit(snapshot_from(landing.balance, refresh.last_began, landing.wall))
        if snapshot == nil then
            reason = "it is in " .. landing.balance.unit .. ", and this account is counted in " .. A.unit
        end
    end
    if snapshot ~= nil then
        A.refresh = no_refresh(refresh.number, refresh.last_began)
        adopt_balance(snapshot)
    else
        refresh.in_flight, refresh.blocked_until = false, A.now + ticks_up(landing.delay)
        refresh.failures, refresh.reason, refresh.denied = landing.failures, reason or landing.reason, landing.denied
    end
    local waiting = waiting_for_refresh()
    for _, member in ipairs(members_in(waiting)) do
        member.waits_for_refresh, member.changed = false, true
    end
    wake_all(waiting)
    wake_all(interested_names())
end

local function hear(news)
    local kind = news[1]
    if kind == "exhausted" then
        refuse(A.now, news[3], A.behind + ticks_up(news[2]))
        note_change()
        recall_all()
    elseif kind == "busy" then
        A.busy_until = math.max(A.busy_until, A.now + ticks_up(news[2]))
    elseif kind == "key_limited" then
        limit_key(news[2], A.now + ticks_up(news[3]))
    elseif kind == "pausing" then
        pause(news[2], news[3])
        for _, member in ipairs(all_members()) do
            if not member.gone then woken[member.name] = true end
        end
        return
    elseif kind == "offered" then
        if news[3] ~= A.epoch then return end
        local snapshot = in_unit(snapshot_from(news[2], news[4], news[5]))
        if snapshot == nil then return end
        adopt_balance(snapshot)
    end
    wake_all(interested_names())
end

H.MOST_DEBITS_SHOWN, H.RECALL_PATIENCE, H.advance, H.begin_refresh, H.bound_overlap, H.die, H.drop_refresh,
    H.end_refresh_of, H.forget_the_gone, H.from_account, H.grant, H.granting, H.granting_at, H.hear,
    H.hear_report, H.in_budget, H.land, H.latest, H.lend, H.members_in, H.missing, H.queue_needs, H.reap,
    H.settle_on_a_setting, H.somebody_waits, H.waiting_needs, H.wake_all, H.who_fits, H.woken =
    MOST_DEBITS_SHOWN, RECALL_PATIENCE, advance, begin_refresh, bound_overlap, die, drop_refresh,
    end_refresh_of, forget_the_gone, from_account, grant, granting, granting_at, hear, hear_report, in_budget,
    land, latest, lend, members_in, missing, queue_needs, reap, settle_on_a_setting, somebody_waits,
    waiting_needs, wake_all, who_fits, woken

end
