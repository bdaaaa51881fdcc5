-- What is known of the account: its clock, its sums, and the callers that wait.

do

local A, KEY, KINDS, NEVER, all_needs, call, clears, debits_of, find, forget_member, format, interested, least,
    less, loaded, minus, most, names_with, plus, queue_changed, same, ticks_down, unanswered =
    H.A, H.KEY, H.KINDS, H.NEVER, H.all_needs, H.call, H.clears, H.debits_of, H.find, H.forget_member, H.format,
    H.interested, H.least, H.less, H.loaded, H.minus, H.most, H.names_with, H.plus, H.queue_changed, H.same,
    H.ticks_down, H.unanswered

local RECALL_PATIENCE, QUEUE_PATIENCE, MOST_BEHIND, UNVOUCHED = 1, 2, 20, 2^30

-- The members that should send a message soon.
local woken = {}
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

local function pending() return plus(A.settled, A.kept) end

local function before_holds(snapshot, extra)
    if snapshot.refused_until then return 0 end
    return least(
        plus(plus(snapshot.credits, snapshot.overlap), extra),
        plus(snapshot.ceiling, snapshot.ceiling_overlap)
    )
end

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

-- Those that did not answer a recall in time, as it will be when this message is written.
local function missing_members()
    local found = {}
    if A.unanswered > 0 then
        local names = call("ZRANGEBYSCORE", KEY.unanswered, "-inf", format("%.17g", A.now - RECALL_PATIENCE))
        for _, name in ipairs(names) do find(name) end
    end
    for _, member in pairs(loaded) do
        if member and missing(member) then found[#found + 1] = member end
    end
    return found
end

-- A member tells something new, or is dead: what it used no longer counts as unreported since a need came.
local function reported(member)
    if A.waiting == 0 or (same(member.used, 0) and member.slots == 0) then return end
    for name, needs in pairs(all_needs()) do
        for _, queued in ipairs(needs) do
            if member.turn < queued.turn then
                queued.used = minus(queued.used, member.used)
                queued.slots = queued.slots - member.slots
                queue_changed[name] = true
            end
        end
    end
end

local function in_budget(need) return #need.budgets == 0 or H.over_budget(need) == nil end

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
    local snapshot, all = A.figures, committed()
    if snapshot and less(all, most(snapshot.overlap, snapshot.ceiling_overlap)) then
        H.load_balances()
        H.bound_overlap(all)
    end
end

local function from_account(need) return need.reserved and 0 or need.amount end

local function waiting_for_refresh()
    return names_with(KEY.refreshing, function(member) return member.waits_for_refresh end)
end

local function drop_refresh()
    A.refresh.last_began = A.figures and A.figures.mono or NEVER
    A.refresh.in_flight = false
end

local function forget_the_gone()
    for _, member in pairs(loaded) do
        if member and member.gone and (member.changed or member.debits_changed) then
            if not clears(debits_of(member), KINDS) then forget_member(member) end
        end
    end
end

H.advance, H.before_holds, H.bound_overlap, H.committed, H.drop_refresh, H.forget_the_gone, H.from_account,
    H.granting, H.granting_at, H.in_budget, H.interested_names, H.latest, H.members_in, H.missing, H.missing_members,
    H.pending, H.reported, H.slots_in_use, H.somebody_waits, H.waiting_for_refresh, H.waiting_needs, H.wake_all, H.woken =
    advance, before_holds, bound_overlap, committed, drop_refresh, forget_the_gone, from_account, granting,
    granting_at, in_budget, interested_names, latest, members_in, missing, missing_members, pending, reported, slots_in_use,
    somebody_waits, waiting_for_refresh, waiting_needs, wake_all, woken

end
