-- Balances and other news: see head.py. What balances tell about spenders outside the store: other_spenders.py.
-- Made when first needed: most messages need none of this.

function H.load_balances()
    if H.balances_loaded then return end
    H.balances_loaded = true

    local A, E, KEY, all_members, amount_from, before_holds, call, clear_debits_of, committed, drop_numbers,
        fill, huge, interested_names, json_number, json_object, least, less, members_in, minus, most,
        no_refresh, note_numbers, pending, plus, positive, put, put_number, quoted, remainder, same, ticks_up,
        waiting_for_refresh, wake_all, with_debits_until, woken =
        H.A, H.E, H.KEY, H.all_members, H.amount_from, H.before_holds, H.call, H.clear_debits_of, H.committed,
        H.drop_numbers, H.fill, H.huge, H.interested_names, H.json_number, H.json_object, H.least, H.less,
        H.members_in, H.minus, H.most, H.no_refresh, H.note_numbers, H.pending, H.plus, H.positive, H.put,
        H.put_number, H.quoted, H.remainder, H.same, H.ticks_up, H.waiting_for_refresh, H.wake_all,
        H.with_debits_until, H.woken

    local LONGEST_SPELL, NOISE, CHECKPOINT_EVERY, MOST_CHECKPOINTS = 86400, 10, 120, 4

    if next(E) == nil then fill(E, cmsgpack.unpack(call("HGET", KEY.account, "evidence"))) end

    local function copy(record)
        local new = {}
        for name, value in pairs(record) do new[name] = value end
        return new
    end

    local function set_snapshot(new)
        E.snapshot = new
        A.figures = new and {
            mono = new.mono, credits = new.credits, ceiling = new.ceiling, slots = new.slots,
            refused_until = new.refused_until, overlap = new.overlap, ceiling_overlap = new.ceiling_overlap,
        }
        A.evidence_changed = true
    end

    -- A snapshot from the wire. Its `text` is the balance as the member wrote it, which nobody reads here.
    local function snapshot_from(given_, mono, wall)
        local function bounded(value) return value == nil and huge or amount_from(value) end
        return {
            mono = mono, wall = wall, text = given_.text, unit = given_.unit, limit = given_.limit or false,
            emptied = false, credits = bounded(given_.credits), ceiling = bounded(given_.ceiling),
            cap = bounded(given_.cap), slots = given_.slots or huge, refused_until = false,
            overlap = 0, ceiling_overlap = 0,
        }
    end

    local function refused(snapshot, until_)
        local new = copy(snapshot)
        new.emptied, new.refused_until = true, until_
        return new
    end

    local function in_unit(snapshot)
        if not A.unit then A.unit = snapshot.unit end
        if snapshot.unit == A.unit then return snapshot end
        if snapshot.unit ~= "credits" then return nil end
        local new = copy(snapshot)
        new.unit = A.unit
        return new
    end

    local function forget_residuals() E.residual, E.ceiling_residual, E.checkpoints = 0, 0, {} end

    local function lose_track()
        forget_residuals()
        E.reference = false
        A.evidence_changed = true
    end

    local function ceiling_after(reference, new) return reference.limit == new.limit and new.ceiling or huge end

    local function fall(before, after)
        if before ~= huge and after ~= huge then return minus(before, after) end
    end

    local function shown(fell, residual, step)
        if fell == nil or not less(fell, 0) then return fell end
        if step then
            local hidden = remainder(fell, step)
            return less(NOISE, minus(step, hidden)) and hidden or 0
        end
        return not less(residual, minus(0, fell)) and fell or 0
    end

    local function carried(residual, fell, cleared, rest)
        if fell == nil then return 0 end
        return least(most(minus(plus(residual, fell), cleared), 0), rest)
    end

    local function change_belief(belief)
        E.belief = belief
        E.changed = E.setting == "auto"
    end

    local function prove(mono, wall, proven)
        E.contradiction = proven
        forget_residuals()
        if E.setting ~= "auto" then return end
        if not (E.belief and E.belief.others) then
            change_belief({others = true, mono = mono, wall = wall, proven = proven, spell = E.spell})
            E.until_ = mono + E.spell
            E.spell = math.min(2 * E.spell, LONGEST_SPELL)
        else
            E.until_ = math.max(E.until_, mono + E.belief.spell)
        end
    end

    local function proven_by(reference, new, committed)
        local falls = {
            {E.residual, fall(reference.credits, new.credits)},
            {E.ceiling_residual, fall(reference.ceiling, ceiling_after(reference, new))},
        }
        local direct, rose = nil, 0
        for at = 1, 2 do
            local residual, fell = falls[at][1], falls[at][2]
            local found = fell == nil and 0 or minus(plus(residual, fell), committed)
            direct = direct == nil and found or most(direct, found)
            if fell ~= nil then rose = most(rose, minus(0, fell)) end
        end
        if E.setting ~= "auto" then return direct end
        local found = direct
        for _, checkpoint in ipairs(E.checkpoints) do
            checkpoint[2] = minus(checkpoint[2], rose)
            found = most(found, minus(checkpoint[2], checkpoint[3]))
        end
        return less(NOISE, found) and found or 0
    end

    local function follow(reference, new, cleared, rest)
        local fell = shown(fall(reference.credits, new.credits), E.residual, E.topup_step)
        E.residual = carried(E.residual, fell, cleared, rest)
        fell = shown(fall(reference.ceiling, ceiling_after(reference, new)), E.ceiling_residual, false)
        E.ceiling_residual = carried(E.ceiling_residual, fell, cleared, rest)
        if reference.limit ~= new.limit then E.checkpoints = {} end
    end

    local function checkpoint_after(sent, rest)
        if same(rest, 0) then
            forget_residuals()
        elseif sent - E.checked_at >= CHECKPOINT_EVERY then
            E.checked_at = sent
            E.checkpoints[#E.checkpoints + 1] = {E.epoch, most(E.residual, E.ceiling_residual), rest}
            while #E.checkpoints > MOST_CHECKPOINTS do table.remove(E.checkpoints, 1) end
            E.epoch = E.epoch + 1
        end
    end

    local function with_overlap(new, landed, committed, cleared)
        E.changed, E.contradiction = false, 0
        if E.setting == false then return new end
        if not E.belief then E.belief = {others = false, mono = new.mono, wall = new.wall, proven = 0, spell = 0} end
        if new.refused_until then
            lose_track()
            return new
        end
        local rest = minus(committed, cleared)
        E.cleared = plus(E.cleared, cleared)
        local reference, before = E.reference, new
        if not reference then
            E.reference, E.landed, E.cleared = new, landed, 0
        elseif new.mono < E.landed then
            new = copy(new)
            new.overlap = carried(E.residual, fall(reference.credits, new.credits), E.cleared, rest)
            new.ceiling_overlap = carried(
                E.ceiling_residual, fall(reference.ceiling, ceiling_after(reference, new)), E.cleared, rest
            )
        else
            local already = E.cleared
            local proven = proven_by(reference, new, plus(rest, already))
            if positive(proven) then
                prove(new.mono, new.wall, proven)
            else
                follow(reference, new, already, rest)
                if E.belief.others and new.mono >= E.until_ then
                    change_belief({others = false, mono = new.mono, wall = new.wall, proven = 0, spell = 0})
                end
            end
            checkpoint_after(new.mono, rest)
            E.reference, E.landed, E.cleared = before, landed, 0
            new = copy(new)
            new.overlap, new.ceiling_overlap = E.residual, E.ceiling_residual
        end
        if E.setting == "auto" and E.belief.others then
            new = copy(new)
            new.overlap, new.ceiling_overlap = 0, 0
        end
        return new
    end

    local function others_refused(cached, committed, mono, wall)
        E.changed, E.contradiction = false, 0
        local covered = cached and not cached.refused_until and not less(before_holds(cached, 0), committed)
        if covered and E.setting == "auto" then prove(mono, wall, 0) end
        lose_track()
    end

    local function cost_less(epoch, by)
        for _, checkpoint in ipairs(E.checkpoints) do
            if epoch <= checkpoint[1] then checkpoint[3] = minus(checkpoint[3], by) end
        end
        A.evidence_changed = true
    end

    local function clear_debits(sent)
        for _, member in pairs(with_debits_until(sent)) do clear_debits_of(member, sent) end
    end

    local function forget_charges(by)
        E.cleared = plus(E.cleared, by)
        if E.snapshot then
            local new = copy(E.snapshot)
            new.overlap = most(minus(new.overlap, by), 0)
            new.ceiling_overlap = most(minus(new.ceiling_overlap, by), 0)
            set_snapshot(new)
        end
        A.evidence_changed = true
    end

    local function apply(snapshot, landed, held)
        local cached = E.snapshot
        if cached then
            if snapshot.mono <= cached.mono then return false end
            local until_ = cached.refused_until
            if until_ and not less(cached.credits, snapshot.credits) and snapshot.mono < until_ then
                snapshot = refused(snapshot, until_)
            end
            if less(cached.credits, snapshot.credits) then A.limited = {} end
        end
        local before = pending()
        clear_debits(snapshot.mono)
        set_snapshot(with_overlap(snapshot, landed, plus(held, before), minus(before, pending())))
        return true
    end

    local function refuse(mono, wall, lag)
        others_refused(E.snapshot, plus(A.leased, pending()), mono, wall)
        local cached = E.snapshot or {
            text = false, born = wall, unit = "credits", limit = false, credits = 0,
            ceiling = huge, cap = huge, slots = huge,
        }
        local new = refused(cached, mono + lag)
        new.mono, new.wall, new.overlap, new.ceiling_overlap = mono, wall, 0, 0
        set_snapshot(new)
    end

    local function limit_key(credential, until_)
        local left, found = {}, false
        for _, each in ipairs(A.limited) do
            if each[2] > A.now then
                if each[1] == credential then each[2], found = math.max(each[2], until_), true end
                left[#left + 1] = each
            end
        end
        if not found then left[#left + 1] = {credential, until_} end
        A.limited = left
    end

    local function pause(by, reason)
        for place, each in ipairs(A.pauses) do
            if each[1] == by then
                if reason then each[2] = reason else table.remove(A.pauses, place) end
                return
            end
        end
        if reason then A.pauses[#A.pauses + 1] = {by, reason} end
    end

    local function save(name, saved)
        for _, each in ipairs(saved) do
            local number, by, first = each[1], amount_from(each[2]), nil
            for _, epoch in ipairs(A.epochs) do
                local known = tonumber(call("HGET", KEY.numbers, epoch .. " " .. name) or 0)
                if known >= number and (first == nil or epoch < first) then first = epoch end
            end
            if first ~= nil then cost_less(first, by) end
        end
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
            H.load_grants()
            H.recall_all()
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

    local function bound_overlap(all)
        local new = copy(E.snapshot)
        new.overlap, new.ceiling_overlap = least(new.overlap, all), least(new.ceiling_overlap, all)
        set_snapshot(new)
    end

    local function forget_snapshot()
        set_snapshot(false)
        lose_track()
    end

    -- What views have of it, which most messages leave as it is.

    local function json_snapshot(snapshot)
        return "[" .. table.concat({
            json_number(snapshot.mono), json_number(snapshot.wall), snapshot.text and quoted(snapshot.text) or "null",
            quoted(snapshot.unit), json_number(snapshot.born), tostring(snapshot.emptied), json_number(snapshot.credits),
            json_number(snapshot.ceiling), json_number(snapshot.cap), json_number(snapshot.slots),
            snapshot.refused_until and json_number(snapshot.refused_until) or "null",
            json_number(snapshot.overlap), json_number(snapshot.ceiling_overlap),
        }, ",") .. "]"
    end

    local function json_others()
        local object, belief = {}, E.belief
        if E.setting ~= "auto" then put(object, "setting", tostring(E.setting)) end
        if belief then
            if belief.others then put(object, "others", "true") end
            put_number(object, "since", belief.mono)
            put_number(object, "wall", belief.wall)
            put_number(object, "proven", belief.proven)
            put_number(object, "spell", belief.spell)
        end
        put_number(object, "changes", A.changes)
        put_number(object, "contradiction", E.contradiction)
        return json_object(object)
    end

    local function show()
        A.snapshot_json = E.snapshot and json_snapshot(E.snapshot) or ""
        A.others_json = json_others()
    end

    H.bound_overlap, H.forget_charges, H.forget_snapshot, H.hear, H.land, H.save, H.show =
        bound_overlap, forget_charges, forget_snapshot, hear, land, save, show
end
