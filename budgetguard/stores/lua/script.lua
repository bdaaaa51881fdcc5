-- One message of a member, from the wire to the reply.

local LONGEST_SILENCE, WAKE_AGAIN, MOST_AT_ONCE = 60, 0.25, 500

local A, ACCOUNT, FORMAT, KEY, MEMBER, NEVER, advance, all_members, all_needs, amount_from, begin_refresh,
    bound_overlap, call, drop_numbers, drop_refresh, fill, find, forget_the_gone, granting, hear_report,
    json_any, json_list, json_number, json_numbers, json_object, json_view, latest, lend, less, loaded,
    new_account, new_member, not_woken, put, put_number, queue_needs, quoted, set_lease, ticks_up, time_from, unpacked, wake_all,
    woken, woken_changed, write_all =
    H.A, H.ACCOUNT, H.FORMAT, H.KEY, H.MEMBER, H.NEVER, H.advance, H.all_members, H.all_needs, H.amount_from,
    H.begin_refresh, H.bound_overlap, H.call, H.drop_numbers, H.drop_refresh, H.fill, H.find,
    H.forget_the_gone, H.granting, H.hear_report, H.json_any, H.json_list, H.json_number, H.json_numbers,
    H.json_object, H.json_view, H.latest, H.lend, H.less, H.loaded, H.new_account, H.new_member, H.not_woken, H.put,
    H.put_number, H.queue_needs, H.quoted, H.set_lease, H.ticks_up, H.time_from, H.unpacked, H.wake_all, H.woken,
    H.woken_changed, H.write_all

local function normal_message(text)
    local message = cjson.decode(text)
    local report = message.report or {}
    message.report = report
    for _, name in ipairs({"used", "keep", "want", "floor", "extra"}) do report[name] = amount_from(report[name]) end
    for _, name in ipairs({"slots", "running", "recall", "patience"}) do report[name] = report[name] or 0 end
    report.needs, report.budgets = report.needs or {}, report.budgets or {}
    for _, need in ipairs(report.needs) do
        for _, name in ipairs({"amount", "cost", "floor", "extra"}) do need[name] = amount_from(need[name]) end
        need.slots, need.budgets = need.slots or 0, need.budgets or {}
        for _, each in ipairs(need.budgets) do each.limit = amount_from(each.limit) end
    end
    for _, use in ipairs(report.budgets) do use.held, use.spent = amount_from(use.held), amount_from(use.spent) end
    message.seen, message.elapsed, message.dropped = message.seen or NEVER, message.elapsed or 0, message.dropped or 0
    message.refresh_after = time_from(message.refresh_after)
    return message
end

local function status_of(message, member)
    local lives = member ~= nil and not member.gone
    local stranger = (lives or (member == nil and not granting())) and "reassert" or "expired"
    if message.join == nil then
        if message.epoch ~= A.epoch then return stranger end
        if not lives then return "expired" end
    elseif message.epoch ~= "" and message.epoch ~= A.epoch then
        return stranger
    elseif member ~= nil and message.number == member.number then
        return member.gone and "expired" or "done"
    elseif message.epoch == "" and member ~= nil and message.number > member.number then
        return "expired"
    end
    return member ~= nil and message.number < member.number and "old" or "done"
end

local function take(message)
    local name, report = message.member, message.report
    local member = find(name) or new_member(name)
    if message.join and message.join.hold_for and message.epoch ~= "" and A.now < A.regroup then
        -- Others may still spend from leases as long as this one's.
        local hold_for = ticks_up(message.join.hold_for)
        A.regroup = A.turns > 0 and math.max(A.regroup, hold_for) or hold_for
    end
    A.turns = A.turns + 1
    H.reported(member)
    member.heard, member.number, member.turn, member.changed = latest(), message.number, A.turns, true
    not_woken(name)
    hear_report(message, member)
    if H.budgets_loaded then
        if message.join == nil then
            H.report_budgets(name, report.budgets)
        else
            H.reassert_budgets(name, report.budgets)
        end
    end
    if message.leave then
        if H.budgets_loaded then H.budgets_without(name, false) end
        H.load_comings()
        set_lease(member, member.used)
        H.die(member, latest())
        H.settle_on_a_setting()
    end
    if message.news or message.landing then
        H.load_balances()
        for _, news in ipairs(message.news or {}) do H.hear(news) end
        if message.landing then H.land(name, message.landing) end
    end
    if message.leave then wake_all(H.end_refresh_of(name)) end
    local right = ""
    if message.refresh_after ~= nil and not message.leave then right = begin_refresh(member, message) end
    local answer = {granted = {}, windows = {}, refused = {}, over = {}}
    bound_overlap()
    if not message.leave then
        queue_needs(member, report.needs)
        if next(all_needs()) ~= nil then
            H.load_grants()
            H.grant(member, answer)
        end
        lend(member, report)
    end
    local reply = {'"status":"done","epoch":' .. quoted(A.epoch) .. ',"number":' .. json_number(message.number)}
    put_number(reply, "lease", member.lease)
    put_number(reply, "slots", member.slots)
    if #answer.granted > 0 then put(reply, "granted", json_numbers(answer.granted)) end
    if #answer.windows > 0 then
        put(reply, "windows", json_list(answer.windows, function(each) return "[" .. json_number(each[1]) .. "," .. json_numbers(each[2]) .. "]" end))
    end
    if #answer.refused > 0 then put(reply, "refused", json_numbers(answer.refused)) end
    if #answer.over > 0 then
        put(reply, "over", json_list(answer.over, function(each) return "[" .. json_number(each[1]) .. "," .. quoted(each[2]) .. "]" end))
    end
    if right ~= "" then put(reply, "refresh", quoted(right)) end
    if right == "yours" then put(reply, "refresh_number", json_number(A.refresh.number)) end
    member.reply = table.concat(reply, ",")
    local short = #answer.refused > 0 or #answer.over > 0 or all_needs()[name] ~= nil
    forget_the_gone()
    local view = json_view(name, report, short)
    if H.budgets_loaded then H.forget_budgets() end
    return member.reply, view
end

local function check(member)
    if member and (less(member.lease, member.used) or less(member.used, 0) or member.slots < 0) then
        error("the account contradicts itself")
    end
end

local function mentions_budgets(report)
    if #report.budgets > 0 then return true end
    for _, need in ipairs(report.needs) do
        if #need.budgets > 0 then return true end
    end
    return false
end

local function handle(message, clock)
    local seen = message.epoch == A.epoch and message.seen or NEVER
    local member = find(message.member)
    local others = A.living - (member and not member.gone and 1 or 0)
    advance(clock, seen, message.dropped, message.elapsed, others == 0)
    if A.budgets > 0 or A.waiting > 0 or mentions_budgets(message.report) then H.load_budgets() end
    if A.now >= A.reap_at then
        H.load_comings()
        H.reap()
        member = find(message.member)
    end
    local status = status_of(message, member)
    if status ~= "done" then
        local number = member and member.number or 0
        local reply = '"status":"' .. status .. '","epoch":' .. quoted(A.epoch) .. ',"number":' .. json_number(number)
        return reply, json_view(message.member)
    end
    if member ~= nil and message.number == member.number then
        member.heard, member.changed = latest(), true
        return member.reply, json_view(message.member, message.report)
    end
    local reply, view = take(message)
    bound_overlap()
    if next(all_needs()) ~= nil then
        H.load_grants()
        wake_all(H.answerable(message.member))
    end
    check(loaded[message.member])
    return reply, view
end

-- Those that should send a message and were not woken just now: they have sent nothing since, and are about to.
local function to_wake(besides)
    local names, found = {}, {}
    for name in pairs(woken) do
        if name ~= besides and loaded[name] ~= false then names[#names + 1] = name end
    end
    for first = 1, #names, MOST_AT_ONCE do
        local some = {}
        for at = first, math.min(first + MOST_AT_ONCE - 1, #names) do some[#some + 1] = names[at] end
        for at, woken_at in ipairs(call("HMGET", KEY.woken, unpack(some))) do
            if not woken_at or A.now >= woken_at + WAKE_AGAIN then
                found[#found + 1] = some[at]
                if not woken_at then A.woken = A.woken + 1 end
                woken_changed[some[at]] = A.now
            end
        end
    end
    return found
end

local function fail_over(run, epoch)
    A.run, A.epoch, A.server, A.behind = run, epoch, false, 0
    for _, member in ipairs(all_members()) do
        if not member.gone then
            member.heard, member.changed = A.now, true
            A.awaited[member.name] = true
        end
    end
    H.load_balances()
    H.forget_snapshot()
    drop_refresh()
    A.balances = A.balances + 1
    for _, epoch_ in ipairs(A.epochs) do drop_numbers(epoch_) end
    A.epochs = {}
end

local function dumped()
    local parts, stored = {}, call("HGETALL", KEY.account)
    for at = 1, #stored, 2 do
        if stored[at] == "state" then
            put(parts, "account", json_any(unpacked(stored[at + 1], ACCOUNT)))
        else
            put(parts, "evidence", json_any(cmsgpack.unpack(stored[at + 1])))
        end
    end
    local function all(part, key, read)
        local object, found = {}, call("HGETALL", key)
        for at = 1, #found, 2 do put(object, found[at], read(found[at + 1])) end
        put(parts, part, json_object(object))
    end
    all("members", KEY.members, function(text) return json_any(unpacked(text, MEMBER)) end)
    all("debits", KEY.debits, function(text) return json_any(cmsgpack.unpack(text)) end)
    all("words", KEY.words, function(text) return text end)
    all("needs", KEY.needs, function(text) return json_any(cmsgpack.unpack(text)) end)
    all("woken", KEY.woken, function(text) return text end)
    all("numbers", KEY.numbers, function(text) return text end)
    all("budgets", KEY.budgets, function(text) return json_any(cmsgpack.unpack(text)) end)
    return json_object(parts)
end

if ARGV[1] == "dump" then return dumped() end

local given_options = ARGV[3] and ARGV[3] ~= "" and cjson.decode(ARGV[3]) or {}
local run = given_options.run or call("INFO", "server"):match("run_id:(%w+)")
local time = call("TIME")
local clock = given_options.clock or time[1] + time[2] / 1e6
local epoch = given_options.epoch or run:sub(1, 12) .. "." .. time[1] .. "." .. time[2]
local message = normal_message(ARGV[1])
if message.join then H.survey() end
local stored = call("HGET", KEY.account, "state")
if stored then
    fill(A, unpacked(stored, ACCOUNT))
    if A.format > FORMAT then return '{"newer":' .. json_number(A.format) .. "}" end
    if A.run ~= run then fail_over(run, epoch) end
else
    if not message.join then H.survey() end
    -- A member that knows an epoch holds something of an account that is lost here, and others may, too.
    local lost = message.epoch ~= "" and message.elapsed < H.KEPT and (message.join and message.join.hold_for or LONGEST_SILENCE)
    new_account(run, epoch, given_options.regroup or (lost and ticks_up(lost) or 0))
end
local reply, view = handle(message, clock)
local names = to_wake(message.member)
local renewed = H.keep(message, tonumber(time[1]))
write_all()
H.expire(renewed)
if not given_options.quiet then
    for _, name in ipairs(names) do call("PUBLISH", ARGV[2] .. name:match("^[^.]*"), name) end
end
if given_options.quiet then return "{" .. reply .. ',"woken":' .. json_list(names, quoted) .. ',"view":' .. view .. "}" end
return "{" .. reply .. ',"view":' .. view .. "}"
