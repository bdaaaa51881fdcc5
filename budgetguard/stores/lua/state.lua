-- The state of one account, which is read as it is needed and written at the end of a message: so a script
-- that fails changes nothing, and a member that nothing happened to costs nothing.

do

local NEVER, TICKS, add_counts, add_debit, drop_first, floor, format, huge, minus, new_debits, plus, positive,
    same, subtract_counts =
    H.NEVER, H.TICKS, H.add_counts, H.add_debit, H.drop_first, H.floor, H.format, H.huge, H.minus,
    H.new_debits, H.plus, H.positive, H.same, H.subtract_counts

local KEY = {
    account = KEYS[1], members = KEYS[2], debits = KEYS[3], words = KEYS[4], needs = KEYS[5],
    numbers = KEYS[6], interested = KEYS[7], silence = KEYS[8], unanswered = KEYS[9], clearing = KEYS[10],
    cleared = KEYS[11], kept_next = KEYS[12], kept_last = KEYS[13], refreshing = KEYS[14],
    woken = KEYS[15], budgets = KEYS[16], budget_names = KEYS[17], budget_members = KEYS[18],
}
local call = redis.call
local FORMAT = 1

-- In the order in which they are written. A new one comes last, with a new format.
local ACCOUNT = {
    "format", "run", "epoch", "now", "server", "behind", "dropped", "awaited", "regroup", "next_order", "turns",
    "balances", "changes", "recall", "calm_until", "refresh", "refreshing_member", "unit", "busy_until", "limited",
    "pauses", "epochs", "budget_checked", "budgets_unchecked", "leased", "used", "slots", "running", "living",
    "holders", "slot_holders", "settled", "kept", "kept_slots", "kept_calls", "kept_sessions", "spenders", "waiting",
    "unanswered", "waits_for_refresh", "budgets", "unresolved", "reap_at", "figures",
    "snapshot_json", "others_json", "woken", "kept_until", "longest",
}
local MEMBER = {
    "lease", "used", "slots", "running", "number", "heard", "hold_for", "patience", "floor", "extra", "recall",
    "turn", "asked_at", "gone", "waits_for_refresh", "sole_spender", "format", "reply", "first_clears", "last_clears",
    "first_kept", "last_kept", "silent_at", "is_interested", "unanswered_since", "is_waiting",
}

local function packed(record, names)
    local values = {}
    for place, name in ipairs(names) do
        local value = record[name]
        values[place] = value == nil and false or value
    end
    return cmsgpack.pack(values)
end

local function unpacked(text, names)
    local record = {}
    for place, value in ipairs(cmsgpack.unpack(text)) do record[names[place]] = value end
    return record
end

-- The account, and what it knows of its balance and of other spenders. Always these tables.
local A, E = {}, {}

local function fill(record, values)
    for name, value in pairs(values) do record[name] = value end
end

local function no_refresh(number, last_began)
    return {
        number = number, last_began = last_began, in_flight = false, expires = NEVER, blocked_until = NEVER,
        failures = 0, reason = "", denied = false,
    }
end

local function new_account(run, epoch, regroup)
    fill(A, {
        format = FORMAT, run = run, epoch = epoch, now = 0, server = false, behind = 0, dropped = 0, awaited = {},
        regroup = regroup, next_order = 0, turns = 0, balances = 0, changes = 0, recall = 0, calm_until = NEVER,
        refresh = no_refresh(0, NEVER), refreshing_member = "", unit = false,
        busy_until = NEVER, limited = {}, pauses = {}, epochs = {}, budget_checked = "", budgets_unchecked = 0,
        leased = 0, used = 0, slots = 0, running = 0, living = 0, holders = 0, slot_holders = 0, settled = 0, kept = 0,
        kept_slots = 0,
        kept_calls = {}, kept_sessions = {}, spenders = {no = 0, yes = 0, auto = 0}, waiting = 0, unanswered = 0,
        waits_for_refresh = 0, budgets = 0, unresolved = 0, reap_at = huge, figures = false, snapshot_json = "",
        others_json = "{}", woken = 0, kept_until = 0, longest = 0,
    })
    fill(E, {
        snapshot = false, setting = "auto", topup_step = false, epoch = 0, belief = false, changed = false,
        contradiction = 0, until_ = NEVER, spell = 1800, checked_at = NEVER, reference = false, landed = NEVER,
        cleared = 0, residual = 0, ceiling_residual = 0, checkpoints = {},
    })
    A.evidence_changed = true
end

-- Members. A record that is changed is marked by whoever changes it.

local loaded = {}               -- name -> record; false if there is none
local loaded_all = false

local function record_from(name, text)
    local member = unpacked(text, MEMBER)
    member.name, member.stored = name, true
    loaded[name] = member
    return member
end

local function find(name)
    local member = loaded[name]
    if member == nil then
        local text = not loaded_all and call("HGET", KEY.members, name)
        if text then return record_from(name, text) end
        loaded[name] = false
    end
    return member or nil
end

local function all_members()
    if not loaded_all then
        local found = call("HGETALL", KEY.members)
        for at = 1, #found, 2 do
            if loaded[found[at]] == nil then record_from(found[at], found[at + 1]) end
        end
        loaded_all = true
    end
    local members = {}
    for _, member in pairs(loaded) do
        if member then members[#members + 1] = member end
    end
    return members
end

local function new_member(name)
    local member = {
        name = name, lease = 0, used = 0, slots = 0, running = 0, number = 0, heard = NEVER, hold_for = false,
        patience = 0, floor = 0, extra = 0, recall = 0, turn = 0, asked_at = NEVER, gone = false,
        waits_for_refresh = false, sole_spender = "auto", format = 0, reply = false, first_clears = false,
        last_clears = false, first_kept = false, last_kept = false, silent_at = false, is_interested = false,
        unanswered_since = false, is_waiting = false,
    }
    loaded[name] = member
    A.living = A.living + 1
    A.spenders.auto = A.spenders.auto + 1
    return member
end

local SPENDER = {["true"] = "yes", ["false"] = "no", auto = "auto"}
local function count_spender(member, by)
    local word = SPENDER[tostring(member.sole_spender)]
    A.spenders[word] = A.spenders[word] + by
end

-- The account has the sums of what its members have.

local function set_lease(member, lease)
    A.leased = plus(A.leased, minus(lease, member.lease))
    A.holders = A.holders + (positive(lease) and 1 or 0) - (positive(member.lease) and 1 or 0)
    member.lease, member.changed = lease, true
end

local function set_used(member, used)
    A.used = plus(A.used, minus(used, member.used))
    member.used, member.changed = used, true
end

local function set_slots(member, slots)
    A.slots = A.slots + slots - member.slots
    A.slot_holders = A.slot_holders + (slots > 0 and 1 or 0) - (member.slots > 0 and 1 or 0)
    member.slots, member.changed = slots, true
end

local function set_running(member, running)
    A.running = A.running + running - member.running
    member.running, member.changed = running, true
end

local KINDS, UNRESOLVED = {"settled", "kept", "lost"}, {"kept", "lost"}

local function debits_of(member)
    if not member.debits then
        local stored = member.first_clears and call("HGET", KEY.debits, member.name)
        local parts = stored and cmsgpack.unpack(stored) or {new_debits(false), new_debits(true), new_debits(true)}
        member.debits = {settled = parts[1], kept = parts[2], lost = parts[3]}
    end
    return member.debits
end

local function drop_buckets(member, kind, count)
    local debits = debits_of(member)
    local dropped = debits[kind]
    local total = 0
    for at = 1, count do
        total = plus(total, dropped.amounts[at])
        if kind ~= "settled" then
            A.kept_slots = A.kept_slots - dropped.slots[at]
            subtract_counts(A.kept_calls, dropped.calls[at])
            subtract_counts(A.kept_sessions, dropped.sessions[at])
        end
    end
    local sum = kind == "settled" and "settled" or "kept"
    A[sum] = minus(A[sum], total)
    debits[kind], member.debits_changed = drop_first(dropped, count), true
end

local function add_settled(member, amount, clears_at)
    add_debit(debits_of(member).settled, amount, clears_at, 0)
    A.settled = plus(A.settled, amount)
    member.debits_changed = true
end

local function add_unresolved(member, kind, amount, clears_at, slots, calls, sessions)
    add_debit(debits_of(member)[kind], amount, clears_at, slots, calls, sessions)
    A.kept, A.kept_slots = plus(A.kept, amount), A.kept_slots + slots
    A.kept_calls, A.kept_sessions = add_counts(A.kept_calls, calls), add_counts(A.kept_sessions, sessions)
    member.debits_changed = true
end

local function drop_all(member, kind)
    if member.first_clears or member.debits then
        local count = #debits_of(member)[kind].ticks
        if count > 0 then drop_buckets(member, kind, count) end
    end
end

local function clear_debits_of(member, sent)
    for _, kind in ipairs(KINDS) do
        local ticks, count = debits_of(member)[kind].ticks, 0
        while ticks[count + 1] and ticks[count + 1] <= sent * TICKS do count = count + 1 end
        if count > 0 then drop_buckets(member, kind, count) end
    end
end

-- When the first and the last debit clear, of these kinds; false without any.
local function clears(debits, kinds)
    local first, last = huge, NEVER
    for _, kind in ipairs(kinds) do
        local ticks = debits[kind].ticks
        if #ticks > 0 then first, last = math.min(first, ticks[1]), math.max(last, ticks[#ticks]) end
    end
    if last == NEVER then return false, false end
    return first / TICKS, last / TICKS
end

-- Members whose debits changed are not in these sets as they will be: so they are looked at, too.
local function with_debits_until(sent)
    local found, names = {}, call("ZRANGEBYSCORE", KEY.clearing, "-inf", format("%.17g", sent))
    for _, name in ipairs(names) do
        local member = find(name)
        if member then found[name] = member end
    end
    for name, member in pairs(loaded) do
        if member and member.debits_changed then found[name] = member end
    end
    return found
end

-- The needs of all members, which nobody has as long as nobody lacks anything.

local queue
local queue_changed = {}

local function all_needs()
    if queue == nil then
        queue = {}
        if A.waiting > 0 then
            local found = call("HGETALL", KEY.needs)
            for at = 1, #found, 2 do queue[found[at]] = cmsgpack.unpack(found[at + 1]) end
        end
    end
    return queue
end

-- The same as far as they were looked at; nil if nobody did.
local function known_needs() return queue end

local function set_needs(name, needs)
    local known = all_needs()
    if #needs == 0 then needs = nil end
    if known[name] ~= nil or needs ~= nil then queue_changed[name] = true end
    known[name] = needs
end

local function interested(member)
    return not same(member.lease, 0) or member.running ~= 0 or all_needs()[member.name] ~= nil
end

local function unanswered(member)
    return member.recall < A.recall and (positive(member.lease) or member.slots > 0)
end

-- Names in a set that is stored, as it will be when this message is written.
local function names_with(key, has)
    local names = {}
    for _, name in ipairs(call("SMEMBERS", key)) do
        if loaded[name] == nil then names[name] = true end
    end
    for name, member in pairs(loaded) do
        if member and has(member) then names[name] = true end
    end
    return names
end

-- The numbers of all members' last messages, at the checkpoints of the evidence.

local numbers_written, numbers_dropped = {}, {}

local function note_numbers(epoch)
    for _, member in ipairs(all_members()) do
        numbers_written[#numbers_written + 1] = epoch .. " " .. member.name
        numbers_written[#numbers_written + 1] = member.number
    end
    A.epochs[#A.epochs + 1] = epoch
end

local function drop_numbers(epoch) numbers_dropped[epoch] = true end

-- When members were woken that have sent nothing since; false for one that is not any more.
local woken_changed = {}

local function not_woken(name)
    if A.woken > 0 and woken_changed[name] == nil and call("HEXISTS", KEY.woken, name) == 1 then
        A.woken, woken_changed[name] = A.woken - 1, false
    end
end

-- Members that are written no more.
local forgotten = {}

local function forget_member(member)
    forgotten[#forgotten + 1] = member
    loaded[member.name] = false
end

H.A, H.ACCOUNT, H.E, H.FORMAT, H.KEY, H.KINDS, H.MEMBER, H.UNRESOLVED, H.add_settled, H.add_unresolved,
    H.all_members, H.all_needs, H.call, H.clear_debits_of, H.clears, H.count_spender, H.debits_of, H.drop_all,
    H.drop_numbers, H.fill, H.find, H.forget_member, H.forgotten, H.interested, H.known_needs, H.loaded,
    H.names_with, H.new_account, H.new_member, H.no_refresh, H.note_numbers, H.numbers_dropped,
    H.numbers_written, H.packed, H.queue, H.queue_changed, H.set_lease, H.set_needs, H.set_running,
    H.set_slots, H.set_used, H.unanswered, H.unpacked, H.with_debits_until, H.not_woken, H.woken_changed =
    A, ACCOUNT, E, FORMAT, KEY, KINDS, MEMBER, UNRESOLVED, add_settled, add_unresolved, all_members, all_needs,
    call, clear_debits_of, clears, count_spender, debits_of, drop_all, drop_numbers, fill, find, forget_member,
    forgotten, interested, known_needs, loaded, names_with, new_account, new_member, no_refresh, note_numbers,
    numbers_dropped, numbers_written, packed, queue, queue_changed, set_lease, set_needs, set_running,
    set_slots, set_used, unanswered, unpacked, with_debits_until, not_woken, woken_changed

end
