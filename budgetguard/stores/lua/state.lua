-- The state of one account, which is read as it is needed and written at the end of a message: so a script
-- that fails changes nothing, and a member that nothing happened to costs nothing.

local KEY = {
    account = KEYS[1], members = KEYS[2], debits = KEYS[3], replies = KEYS[4], words = KEYS[5],
    needs = KEYS[6], numbers = KEYS[7], interested = KEYS[8], silence = KEYS[9], unanswered = KEYS[10],
    clearing = KEYS[11], cleared = KEYS[12], kept_next = KEYS[13], kept_last = KEYS[14],
    refreshing = KEYS[15], budgets = KEYS[16], budget_names = KEYS[17], budget_members = KEYS[18],
}
local call = redis.call
local FORMAT = 1

-- In the order in which they are written. A new one comes last, with a new format.
local ACCOUNT = {
    "format", "run", "epoch", "now", "server", "behind", "dropped", "awaited", "regroup", "next_order", "turns",
    "balances", "changes", "recall", "calm_until", "refresh", "refreshing_member", "unit", "busy_until", "limited",
    "pauses", "epochs", "budget_checked", "budgets_unchecked", "leased", "used", "slots", "running", "living",
    "holders", "settled", "kept", "kept_slots", "kept_calls", "kept_sessions", "spenders", "waiting", "unanswered",
    "waits_for_refresh", "budgets",
}
local MEMBER = {
    "lease", "used", "slots", "running", "number", "heard", "hold_for", "patience", "floor", "extra", "recall",
    "turn", "asked_at", "gone", "waits_for_refresh", "sole_spender", "format", "has_debits", "is_interested",
    "unanswered_since", "is_waiting",
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

local A, E                      -- the account, and what it knows of its balance and of other spenders
local evidence_changed = false

local function no_refresh(number, last_began)
    return {
        number = number, last_began = last_began, in_flight = false, expires = NEVER, blocked_until = NEVER,
        failures = 0, reason = "", denied = false,
    }
end

local function new_account(run, epoch, regroup)
    A = {
        format = FORMAT, run = run, epoch = epoch, now = 0, server = false, behind = 0, dropped = 0, awaited = {},
        regroup = regroup, next_order = 0, turns = 0, balances = 0, changes = 0, recall = 0, calm_until = NEVER,
        refresh = no_refresh(0, NEVER), refreshing_member = "", unit = false,
        busy_until = NEVER, limited = {}, pauses = {}, epochs = {}, budget_checked = "", budgets_unchecked = 0,
        leased = 0, used = 0, slots = 0, running = 0, living = 0, holders = 0, settled = 0, kept = 0, kept_slots = 0,
        kept_calls = {}, kept_sessions = {}, spenders = {no = 0, yes = 0, auto = 0}, waiting = 0, unanswered = 0,
        waits_for_refresh = 0, budgets = 0,
    }
    E = {
        snapshot = false, setting = "auto", topup_step = false, epoch = 0, belief = false, changed = false,
        contradiction = 0, until_ = NEVER, spell = 1800, checked_at = NEVER, reference = false, landed = NEVER,
        cleared = 0, residual = 0, ceiling_residual = 0, checkpoints = {},
    }
    evidence_changed = true
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
        waits_for_refresh = false, sole_spender = "auto", format = 0, has_debits = false, is_interested = false,
        unanswered_since = false, is_waiting = false, reply = false,
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
    member.slots, member.changed = slots, true
end

local function set_running(member, running)
    A.running = A.running + running - member.running
    member.running, member.changed = running, true
end

local function debits_of(member)
    if not member.debits then
        member.debits = unpack_debits(member.has_debits and call("HGET", KEY.debits, member.name))
    end
    return member.debits
end

local function count_debit(kind, bucket, by)
    local amount = by > 0 and bucket.amount or minus(0, bucket.amount)
    if kind == "settled" then
        A.settled = plus(A.settled, amount)
    else
        A.kept = plus(A.kept, amount)
        A.kept_slots = A.kept_slots + by * bucket.slots
        if by > 0 then
            A.kept_calls = add_counts(A.kept_calls, bucket.calls)
            A.kept_sessions = add_counts(A.kept_sessions, bucket.sessions)
        else
            subtract_counts(A.kept_calls, bucket.calls)
            subtract_counts(A.kept_sessions, bucket.sessions)
        end
    end
end

local function add_to(member, kind, amount, clears_at, slots, calls, sessions)
    local bucket = add_debit(debits_of(member)[kind], amount, clears_at, slots)
    if kind ~= "settled" then
        bucket.calls, bucket.sessions = add_counts(bucket.calls, calls), add_counts(bucket.sessions, sessions)
    end
    count_debit(kind, {amount = amount, slots = slots, calls = calls, sessions = sessions}, 1)
    member.debits_changed = true
end

local function drop_all(member, kind)
    local debits = debits_of(member)
    for _, bucket in ipairs(debits[kind]) do count_debit(kind, bucket, -1) end
    debits[kind] = {}
    member.debits_changed = true
end

local KINDS = {"settled", "kept", "lost"}

local function clear_debits_of(member, sent)
    local debits = debits_of(member)
    for _, kind in ipairs(KINDS) do
        local buckets, first = debits[kind], 1
        while buckets[first] and buckets[first].clears_at <= sent do
            count_debit(kind, buckets[first], -1)
            first = first + 1
        end
        if first > 1 then
            local left = {}
            for at = first, #buckets do left[#left + 1] = buckets[at] end
            debits[kind], member.debits_changed = left, true
        end
    end
end

-- When the first and the last debit clear, of these kinds; nil without any.
local function clears(debits, kinds)
    local first, last
    for _, kind in ipairs(kinds) do
        local buckets = debits[kind]
        if #buckets > 0 then
            local soonest, latest = buckets[1].clears_at, buckets[#buckets].clears_at
            first = first and math.min(first, soonest) or soonest
            last = last and math.max(last, latest) or latest
        end
    end
    return first, last
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

