-- Grants, refusals and recalls: see queued_needs.py and shared_head.py.
-- Made when first needed: most messages need none of this.

function H.load_grants()
    if H.grants_loaded then return end
    H.grants_loaded = true

    local A, all_members, all_needs, before_holds, committed, floor, from_account, granting, huge, in_budget, latest,
        least, less, minus, missing, missing_members, most, plus, positive, same, set_lease, set_needs, set_running, set_slots, set_used,
        slots_in_use, times, waiting_needs, woken =
        H.A, H.all_members, H.all_needs, H.before_holds, H.committed, H.floor, H.from_account, H.granting, H.huge,
        H.in_budget, H.latest, H.least, H.less, H.minus, H.missing, H.missing_members, H.most, H.plus, H.positive, H.same, H.set_lease,
        H.set_needs, H.set_running, H.set_slots, H.set_used, H.slots_in_use, H.times, H.waiting_needs, H.woken

    local CALM = 0.25

    -- What is left for one need after another, in order of arrival.

    local function remainder_now()
        return {
            snapshot = granting() and A.figures, committed = committed(), slots = slots_in_use(), ahead = 0,
            slots_ahead = 0, missing = false,
        }
    end

    local function above_floor(left, need)
        local before = before_holds(left.snapshot, need.extra)
        return minus(minus(minus(before, need.floor), left.committed), left.ahead)
    end

    local function others_of(turn)
        local found = {}
        for _, member in ipairs(all_members()) do
            if not missing(member) then
                local may
                if member.turn >= turn then
                    may = less(member.used, member.lease)
                else
                    may = positive(member.lease) or member.slots > 0
                end
                if may then found[#found + 1] = member end
            end
        end
        return found
    end

    -- Credits and sessions: slack of all, and what those use that have not reported since the need came. From sums:
    -- only the members that are missing are read.
    local function may_give_back(left, queued)
        left.missing = left.missing or missing_members()
        local credits, sessions = plus(minus(A.leased, A.used), queued.used), queued.slots
        for _, member in ipairs(left.missing) do
            if member.turn >= queued.turn then
                credits = minus(credits, minus(member.lease, member.used))
            else
                credits, sessions = minus(credits, member.lease), sessions - member.slots
            end
        end
        return credits, sessions
    end

    local function slots_left(left, fewer)
        return left.snapshot.slots - left.slots - left.slots_ahead + fewer
    end

    -- How many times an amount is in a sum, but no more than so many.
    local function count_in(sum, amount, highest)
        local lowest = 0
        while lowest < highest do
            local middle = floor((lowest + highest + 1) / 2)
            if less(sum, times(amount, middle)) then highest = middle - 1 else lowest = middle end
        end
        return lowest
    end

    local function helped_of(left, queued)
        local need, helped = queued.need, #queued.tickets
        local amount, free = from_account(need), above_floor(left, need)
        local credits, sessions = may_give_back(left, queued)
        if not same(amount, 0) and free ~= huge then helped = count_in(plus(free, credits), amount, helped) end
        local slots = slots_left(left, sessions)
        if need.slots ~= 0 and slots ~= huge then helped = math.min(helped, floor(slots / need.slots)) end
        if need.counts or helped <= 0 then return math.max(helped, 0) end
        return #queued.tickets
    end

    local function fits(left, need)
        if not left.snapshot then return false end
        local amount = from_account(need)
        local enough = same(amount, 0) or not less(above_floor(left, need), amount)
        return enough and (need.slots == 0 or slots_left(left, 0) >= need.slots)
    end

    local function pass_by(left, queued)
        local need, callers = queued.need, #queued.tickets
        if need.counts then
            left.ahead = plus(left.ahead, times(from_account(need), callers))
            left.slots_ahead = left.slots_ahead + need.slots * callers
        end
    end

    -- Answers.

    local function is_final(need) return granting() and not (need.counts and H.may_free(need)) end

    local function untold(queued)
        if not queued.told then return #queued.tickets end
        local count = 0
        for _, ticket in ipairs(queued.tickets) do count = count + (ticket < queued.told and 1 or 0) end
        return count
    end

    local function answerable(besides)
        local found = {}
        if not A.figures or not granting() then return found end
        local left = remainder_now()
        for _, each in ipairs(waiting_needs()) do
            local name, queued = each[1], each[2]
            local news = name ~= besides and not found[name]
            if not in_budget(queued.need) then
                if news and is_final(queued.need) then found[name] = true end
            else
                if news and (fits(left, queued.need) or helped_of(left, queued) < untold(queued)) then
                    found[name] = true
                end
                pass_by(left, queued)
            end
        end
        return found
    end

    local function recall_all()
        for _, member in ipairs(all_members()) do
            if positive(member.lease) or member.slots ~= 0 then
                if member.recall >= A.recall then member.asked_at = latest() end
                member.changed = true
            end
        end
        A.recall = A.recall + 1
        A.calm_until = math.max(A.calm_until, A.now + CALM)
    end

    local function recall_for(queued, left)
        local need, waiting = queued.need, #queued.tickets
        if less(above_floor(left, need), times(from_account(need), need.counts and waiting or 1)) then
            A.calm_until = A.now + CALM
        end
        local helped = helped_of(left, queued)
        if helped > 0 then
            local others, heard = others_of(queued.turn), true
            for _, member in ipairs(others) do heard = heard and member.recall >= A.recall end
            if heard then recall_all() end
            for _, member in ipairs(others) do woken[member.name] = true end
        end
        return helped
    end

    local function make_wait(queued, left, answer)
        if granting() and A.figures then
            local helped, tickets = recall_for(queued, left), queued.tickets
            for place = helped + 1, #tickets do answer.refused[#answer.refused + 1] = tickets[place] end
            queued.told = tickets[helped + 1] or false
            if not queued.need.counts then
                for place = #tickets, helped + 1, -1 do tickets[place] = nil end
            end
        end
        pass_by(left, queued)
    end

    local function grant_some(member, queued, left, answer)
        local need, tickets = queued.need, queued.tickets
        queued.tickets = {}
        for place, ticket in ipairs(tickets) do
            local over = #need.budgets > 0 and H.over_budget(need) or nil
            if over == nil and fits(left, need) then
                local drawn = need.reserved and 0 or need.cost
                answer.granted[#answer.granted + 1] = ticket
                set_lease(member, plus(member.lease, drawn))
                set_used(member, plus(member.used, drawn))
                set_slots(member, member.slots + need.slots)
                set_running(member, member.running + 1)
                if #need.budgets > 0 then
                    answer.windows[#answer.windows + 1] = {ticket, H.take_budgets(member.name, need)}
                end
                left.committed, left.slots = plus(left.committed, drawn), left.slots + need.slots
            else
                for at = place, #tickets do queued.tickets[at - place + 1] = tickets[at] end
                if over == nil then
                    make_wait(queued, left, answer)
                elseif is_final(need) then
                    for _, each in ipairs(queued.tickets) do answer.over[#answer.over + 1] = {each, over} end
                    queued.tickets = {}
                end
                return
            end
        end
    end

    local function grant(member, answer)
        local left = remainder_now()
        for _, each in ipairs(waiting_needs()) do
            if each[1] == member.name then
                grant_some(member, each[2], left, answer)
            elseif in_budget(each[2].need) then
                pass_by(left, each[2])
            end
        end
        local needs = {}
        for _, queued in ipairs(all_needs()[member.name] or {}) do
            if #queued.tickets > 0 then needs[#needs + 1] = queued end
        end
        set_needs(member.name, needs)
    end

    H.answerable, H.grant, H.recall_all = answerable, grant, recall_all
end
