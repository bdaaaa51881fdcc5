-- Keyed budgets: see shared_budgets.py and budget_shares.py.
-- Made when first needed: most messages need none of this.

function H.load_budgets()
    if H.budgets_loaded then return end
    H.budgets_loaded = true

    local A, KEY, NEVER, TICKS, call, floor, fmod, huge, json_number, less, minus, plus, positive, quoted,
        same, ticks_up =
        H.A, H.KEY, H.NEVER, H.TICKS, H.call, H.floor, H.fmod, H.huge, H.json_number, H.less, H.minus, H.plus,
        H.positive, H.quoted, H.same, H.ticks_up

    local BUCKETS, CHECKS_PER_CALL, MOST_BEHIND_WINDOW, MOST_DEAD = 60, 2, 86400, 64

    local budgets = {}              -- name -> budget, as far as they were looked at; false if there is none
    local budgets_changed, budgets_stored = {}, {}

    local function find_budget(name)
        local budget = budgets[name]
        if budget == nil then
            local text = call("HGET", KEY.budgets, name)
            budget = text and cmsgpack.unpack(text) or false
            budgets[name], budgets_stored[name] = budget, budget and true
        end
        return budget or nil
    end

    local function new_budget(name, rolling)
        local budget = {
            name = name, limit = 0, rolling = rolling or false, window = NEVER, ["until"] = NEVER, reached = NEVER,
            beyond = huge, moved = false, windows = {},
        }
        budgets[name], budgets_changed[name] = budget, true
        return budget
    end

    -- Shares of one window: {stamp, held, spent, shares by member, the dead in order}.

    local function find_window(budget, stamp)
        for _, window in ipairs(budget.windows) do
            if window.stamp == stamp then return window end
        end
    end

    local function dead_place(window, member)
        for place, each in ipairs(window.dead) do
            if each[1] == member then return place end
        end
    end

    local function share_of(budget, stamp, member)
        local window = find_window(budget, stamp)
        if window == nil then return 0, 0 end
        local mine = window.shares[member]
        if mine then return mine[1], mine[2] end
        local place = dead_place(window, member)
        if place then return window.dead[place][2], window.dead[place][3] end
        return 0, 0
    end

    -- Which budgets have a share of whom, so that a death need not look at all of them.

    -- Budget -> the members whose place in the index has to be checked.
    local names_changed = {}

    local function recheck(budget, member)
        local names = names_changed[budget.name] or {}
        names[member], names_changed[budget.name] = true, names
    end

    local function put_share(budget, window, member, held, spent)
        local mine = window.shares[member]
        local place = dead_place(window, member)
        if place then
            local dead = table.remove(window.dead, place)
            window.held, window.spent = plus(window.held, dead[2]), minus(window.spent, dead[2])
            mine = {dead[2], dead[3]}
        end
        mine = mine or {0, 0}
        window.held = plus(window.held, minus(held, mine[1]))
        window.spent = plus(window.spent, minus(spent, mine[2]))
        local any = not (same(held, 0) and same(spent, 0))
        window.shares[member] = any and {held, spent} or nil
        recheck(budget, member)
    end

    local function clear_spent(budget, window)
        for _, each in ipairs(window.dead) do recheck(budget, each[1]) end
        local left = {}
        for member, mine in pairs(window.shares) do
            if same(mine[1], 0) then recheck(budget, member) else left[member] = {mine[1], 0} end
        end
        window.spent, window.dead, window.shares = 0, {}, left
    end

    local function clear_budget(budget)
        local left, dropped = {}, false
        for _, window in ipairs(budget.windows) do
            if budget.rolling and A.now >= window.stamp + budget.rolling then
                if not same(window.spent, 0) or #window.dead > 0 or next(window.shares) ~= nil then
                    clear_spent(budget, window)
                    budgets_changed[budget.name] = true
                end
            end
            local gone_by = not budget.rolling and window.stamp ~= budget.window
            if same(window.held, 0) and (same(window.spent, 0) or gone_by) then
                for member in pairs(window.shares) do recheck(budget, member) end
                for _, each in ipairs(window.dead) do recheck(budget, each[1]) end
                dropped = true
            else
                left[#left + 1] = window
            end
        end
        if dropped then budget.windows, budgets_changed[budget.name] = left, true end
    end

    local function move_to(budget, stamp, until_)
        if stamp == budget.window then return end
        local later, length = stamp > budget.window, budget["until"] - budget.window
        if not (later and stamp < budget.beyond) then
            if A.now < budget.reached + length then return end
            budget.beyond = later and huge or budget.window
        end
        local left = find_window(budget, budget.window)
        budget.moved = budget.moved or (left ~= nil and positive(left.spent))
        budget.window, budget["until"], budget.reached = stamp, until_, H.latest()
        budgets_changed[budget.name] = true
        clear_budget(budget)
    end

    local function bucket_end(rolling)
        local width = math.max(ticks_up(rolling / BUCKETS) * TICKS, 1)
        local ticks = floor(H.latest() * TICKS)
        return (ticks - fmod(ticks, width) + width) / TICKS
    end

    local function decided_in(budget, need)
        if need.admitted ~= nil then return need.admitted end
        if budget.rolling then return bucket_end(budget.rolling) end
        move_to(budget, need.window, need["until"])
        return budget.window
    end

    local function figures(budget, stamp)
        if budget.rolling then
            local spent, held = 0, 0
            for _, window in ipairs(budget.windows) do
                spent, held = plus(spent, window.spent), plus(held, window.held)
            end
            return spent, held
        end
        local window = find_window(budget, stamp)
        if window == nil then return 0, 0 end
        return window.spent, window.held
    end

    local function put_use(budget, member, use)
        if not budget.rolling and budget.window < use.window and use.window < budget.beyond then
            move_to(budget, use.window, use["until"])
        end
        local window = find_window(budget, use.window)
        if window == nil then
            window = {stamp = use.window, held = 0, spent = 0, shares = {}, dead = {}}
            budget.windows[#budget.windows + 1] = window
        end
        put_share(budget, window, member, use.held, use.spent)
        budgets_changed[budget.name] = true
        clear_budget(budget)
    end

    local function forgettable(budget)
        clear_budget(budget)
        if budget.rolling then return #budget.windows == 0 end
        for _, window in ipairs(budget.windows) do
            if not same(window.held, 0) then return false end
        end
        local length = budget["until"] - budget.window
        if A.now >= budget.reached + length + math.min(length, MOST_BEHIND_WINDOW) then return true end
        return not (#budget.windows > 0 or budget.moved)
    end

    local function gives_back_in(budget)
        if not budget.rolling then
            return math.max(budget.reached + budget["until"] - budget.window - A.now, 0)
        end
        local first
        for _, window in ipairs(budget.windows) do
            if not same(window.spent, 0) and (first == nil or window.stamp < first) then first = window.stamp end
        end
        return first and math.max(first + budget.rolling - A.now, 0)
    end

    -- All budgets of the account.

    local function known(named)
        local budget = find_budget(named.budget)
        if budget == nil then
            A.budgets_unchecked = A.budgets_unchecked + 1
            budget = new_budget(named.budget, named.rolling)
        end
        return budget
    end

    local function named(need)
        local budget = known(need)
        if not same(budget.limit, need.limit) then
            budget.limit, budgets_changed[budget.name] = need.limit, true
        end
        clear_budget(budget)
        return budget
    end

    -- The first budget that has no room for a need; nil if all have.
    local function over_budget(need)
        for _, each in ipairs(need.budgets) do
            local budget = named(each)
            if not same(need.amount, 0) then
                local spent, held = figures(budget, decided_in(budget, each))
                if less(minus(minus(each.limit, held), spent), need.amount) then return each.budget end
            end
        end
    end

    local function may_free(need)
        for _, each in ipairs(need.budgets) do
            local budget = named(each)
            local spent = figures(budget, decided_in(budget, each))
            if not same(need.amount, 0) and less(minus(each.limit, spent), need.amount) then return false end
        end
        return true
    end

    local function take_budgets(member, need)
        local windows = {}
        for place, each in ipairs(need.budgets) do
            local budget = named(each)
            local stamp = decided_in(budget, each)
            local held, spent = share_of(budget, stamp, member)
            local use = {window = stamp, held = plus(held, need.cost), spent = spent, ["until"] = each["until"]}
            put_use(budget, member, use)
            windows[place] = stamp
        end
        return windows
    end

    local function report_budgets(member, uses)
        for _, use in ipairs(uses) do
            local budget = known(use)
            local _, spent = share_of(budget, use.window, member)
            local all = {window = use.window, held = use.held, spent = plus(spent, use.spent), ["until"] = use["until"]}
            put_use(budget, member, all)
        end
    end

    local function budgets_of(member)
        local found, from, to = {}, "[" .. member .. " ", "(" .. member .. "!"
        for _, entry in ipairs(call("ZRANGEBYLEX", KEY.budget_members, from, to)) do
            found[entry:sub(#member + 2)] = true
        end
        for budget, members in pairs(names_changed) do
            if members[member] then found[budget] = true end
        end
        return found
    end

    local function reassert_budgets(member, uses)
        for name in pairs(budgets_of(member)) do
            local budget = find_budget(name)
            if budget then
                for _, window in ipairs(budget.windows) do put_share(budget, window, member, 0, 0) end
                budgets_changed[name] = true
            end
        end
        for _, use in ipairs(uses) do put_use(known(use), member, use) end
    end

    -- What a member held counts as spent; one that died may come back.
    local function budgets_without(member, died)
        for name in pairs(budgets_of(member)) do
            local budget = find_budget(name)
            if budget then
                for _, window in ipairs(budget.windows) do
                    local mine = window.shares[member]
                    if mine then
                        window.shares[member] = nil
                        window.held, window.spent = minus(window.held, mine[1]), plus(window.spent, mine[1])
                        if died then
                            window.dead[#window.dead + 1] = {member, mine[1], mine[2]}
                            if #window.dead > MOST_DEAD then
                                recheck(budget, window.dead[1][1])
                                table.remove(window.dead, 1)
                            end
                        end
                    end
                end
                recheck(budget, member)
                budgets_changed[name] = true
                clear_budget(budget)
            end
        end
    end

    local function budget_view(name)
        local budget = find_budget(name)
        if budget == nil then return nil end
        local stamp, until_ = 0, 0
        if not budget.rolling then
            if budget.window > NEVER then stamp, until_ = budget.window, budget["until"] end
        else
            clear_budget(budget)
        end
        local spent, held = figures(budget, stamp)
        local back = (stamp ~= 0 or budget.rolling) and gives_back_in(budget) or nil
        return "[" .. table.concat({
            quoted(name), json_number(spent), json_number(held), json_number(stamp), json_number(until_), json_number(back),
        }, ",") .. "]"
    end

    local function forget_budgets()
        local checks = CHECKS_PER_CALL * (1 + A.budgets_unchecked)
        A.budgets_unchecked = 0
        local any = next(budgets) ~= nil or A.budgets > 0
        if not any then return end
        local names = {}
        for name, budget in pairs(budgets) do
            if budget and not budgets_stored[name] then names[#names + 1] = name end
        end
        local count = A.budgets + #names
        table.sort(names)
        local function following(after)
            local found = call("ZRANGEBYLEX", KEY.budget_names, "(" .. after, "+", "LIMIT", 0, 8)
            local first
            for _, name in ipairs(found) do
                if budgets[name] ~= false then first = name break end
            end
            if first == nil and #found == 8 then return following(found[8]) end
            for _, name in ipairs(names) do
                if name > after and budgets[name] and (first == nil or name < first) then first = name break end
            end
            return first
        end
        for _ = 1, math.min(checks, count) do
            local name = following(A.budget_checked) or following("")
            A.budget_checked = name or A.budget_checked
            local budget = name and find_budget(name)
            if budget and forgettable(budget) then
                for _, window in ipairs(budget.windows) do
                    for member in pairs(window.shares) do recheck(budget, member) end
                    for _, each in ipairs(window.dead) do recheck(budget, each[1]) end
                end
                budgets[name], budgets_changed[name] = false, true
            end
        end
    end

    local function has_share(budget, member)
        for _, window in ipairs(budget.windows) do
            if window.shares[member] or dead_place(window, member) then return true end
        end
        return false
    end

    local function count_budgets()
        for name in pairs(budgets_changed) do
            A.budgets = A.budgets + (budgets[name] and 1 or 0) - (budgets_stored[name] and 1 or 0)
        end
    end

    local function write_budgets()
        for name in pairs(budgets_changed) do
            local budget = budgets[name]
            if budget then
                if not budgets_stored[name] then call("ZADD", KEY.budget_names, 0, name) end
                call("HSET", KEY.budgets, name, cmsgpack.pack(budget))
            else
                call("HDEL", KEY.budgets, name)
                call("ZREM", KEY.budget_names, name)
            end
            for member in pairs(names_changed[name] or {}) do
                local entry = member .. " " .. name
                if budget and has_share(budget, member) then
                    call("ZADD", KEY.budget_members, 0, entry)
                else
                    call("ZREM", KEY.budget_members, entry)
                end
            end
        end
    end

    H.budget_view, H.budgets_without, H.count_budgets, H.forget_budgets, H.may_free, H.over_budget,
        H.reassert_budgets, H.report_budgets, H.take_budgets, H.write_budgets =
        budget_view, budgets_without, count_budgets, forget_budgets, may_free, over_budget, reassert_budgets,
        report_budgets, take_budgets, write_budgets
end
