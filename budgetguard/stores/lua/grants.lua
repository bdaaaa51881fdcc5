-- Grants, refusals and recalls: only where somebody waits.
-- Made when first needed: most messages need none of this.

function H.load_grants()
    if H.grants_loaded then return end
    H.grants_loaded = true

    local A, all_members, all_needs, before_holds, committed, from_account, granting, in_budget, less, minus,
        missing, plus, positive, same, set_lease, set_needs, set_running, set_slots, set_used, slots_in_use,
        waiting_needs, woken =
        H.A, H.all_members, H.all_needs, H.before_holds, H.committed, H.from_account, H.granting, H.in_budget,
        H.less, H.minus, H.missing, H.plus, H.positive, H.same, H.set_lease, H.set_needs, H.set_running,
        H.set_slots, H.set_used, H.slots_in_use, H.waiting_needs, H.woken

    local CALM = 0.25

    local function new_line()
        return {committed = committed(), slots = slots_in_use(), ahead = 0, slots_ahead = 0, others = {}}
    end

    local function left_in(line, need)
        return minus(minus(minus(before_holds(A.figures, need.extra), need.floor), line.committed), line.ahead)
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
        return need.slots == 0 or line.slots + line.slots_ahead - fewer + need.slots <= A.figures.slots
    end

    local function fits(line, need)
        if not A.figures or not granting() then return false end
        local amount = from_account(need)
        return (same(amount, 0) or not less(left_in(line, need), amount)) and has_slots(line, need, 0)
    end

    local function pass_by(line, need)
        if need.counts then
            line.ahead = plus(line.ahead, from_account(need))
            line.slots_ahead = line.slots_ahead + need.slots
        end
    end

    local function is_final(need) return granting() and not (need.counts and H.may_free(need)) end

    local function who_fits(besides)
        local found = {}
        if not A.figures or not granting() then return found end
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
            local over = #need.budgets > 0 and H.over_budget(need) or nil
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
                    answer.windows[#answer.windows + 1] = {need.ticket, H.take_budgets(member.name, need)}
                end
                line.committed, line.slots = plus(line.committed, drawn), line.slots + need.slots
            elseif mine and granting() and A.figures and not recall_for(queued, line) then
                answer.refused[#answer.refused + 1] = need.ticket
                if not need.counts then drop_need(member, need.ticket) end
            end
            if passes then pass_by(line, need) end
        end
    end

    H.grant, H.recall_all, H.who_fits =
        grant, recall_all, who_fits
end
