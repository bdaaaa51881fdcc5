-- Members that join, leave or die.
-- Made when first needed: most messages need none of this.

function H.load_comings()
    if H.comings_loaded then return end
    H.comings_loaded = true

    local A, E, KEY, KINDS, add_unresolved, all_needs, amount_from, call, count_spender, debits_of, drop_all,
        drop_refresh, find, forget_the_gone, format, huge, latest, plus, same, set_lease, set_needs,
        set_running, set_slots, set_used, ticks_up, waiting_for_refresh, wake_all =
        H.A, H.E, H.KEY, H.KINDS, H.add_unresolved, H.all_needs, H.amount_from, H.call, H.count_spender,
        H.debits_of, H.drop_all, H.drop_refresh, H.find, H.forget_the_gone, H.format, H.huge, H.latest, H.plus,
        H.same, H.set_lease, H.set_needs, H.set_running, H.set_slots, H.set_used, H.ticks_up,
        H.waiting_for_refresh, H.wake_all

    local DIED = "ProcessDied"

    local function settle_on_a_setting()
        H.load_balances()
        local setting = "auto"
        if A.spenders.no > 0 then setting = false elseif A.spenders.yes > 0 then setting = true end
        if E.setting ~= setting then E.setting, A.evidence_changed = setting, true end
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
        H.reported(member)
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

    local function reap()
        local names = call("ZRANGEBYSCORE", KEY.silence, "-inf", format("%.17g", A.now))
        local first = call("ZRANGEBYSCORE", KEY.silence, "(" .. format("%.17g", A.now), "+inf", "WITHSCORES", "LIMIT", 0, 1)
        A.reap_at = first[2] and tonumber(first[2]) or huge
        local found, refresher = false, false
        for _, name in ipairs(names) do
            local member = find(name)
            member.changed = true
            if A.now >= member.heard + member.hold_for then
                die(member, latest())
                if H.budgets_loaded then H.budgets_without(name, true) end
                A.awaited[name] = nil
                found, refresher = true, refresher or name == A.refreshing_member
            end
        end
        if not found then return end
        local waiting = refresher and end_refresh_of(A.refreshing_member) or {}
        settle_on_a_setting()
        forget_the_gone()
        if next(all_needs()) ~= nil then
            H.load_grants()
            wake_all(H.answerable(""))
        end
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
        H.load_balances()
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

    H.debts, H.die, H.end_refresh_of, H.join_in, H.reap, H.settle_on_a_setting =
        debts, die, end_refresh_of, join_in, reap, settle_on_a_setting
end
