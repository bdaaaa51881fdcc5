-- When the keys of an account expire that nobody sends messages about any more.
--
-- All at the same moment, at least KEPT after the last message, and at least as long after it as anything of the
-- account may count: whoever came then would need a new balance, which shows all that there was. So no
-- expiry frees credits. A pause has no end, and so the keys have none, either.

do

local A, KEY, call, format = H.A, H.KEY, H.call, H.format

local KEPT = 86400
-- Keys that were written by this message.
local written = {}

-- How long after a message something in it may count.
local function longest(message)
    local join, report = message.join, message.report
    local hold_for, last = join and join.hold_for or 0, report.patience
    for _, debits in ipairs({report.settled or {}, report.kept or {}}) do
        for _, debit in ipairs(debits) do last = math.max(last, debit[2]) end
    end
    for _, each in ipairs(report.budgets) do
        last = math.max(last, each.rolling or 2 * (each["until"] - each.window))
    end
    for _, need in ipairs(report.needs) do
        for _, each in ipairs(need.budgets) do
            last = math.max(last, each.rolling or 2 * (each["until"] - each.window))
        end
    end
    return hold_for, last
end

-- Decide until when the keys are kept, in seconds of the server's clock; returns whether that has changed.
local function keep(message, now)
    local hold_for, last = longest(message)
    A.longest = math.max(A.longest or 0, 2 * hold_for, 2 * last)
    local before, least = A.kept_until or 0, math.max(KEPT, A.longest)
    if #A.pauses > 0 then
        A.kept_until = 0
    elseif before < now + least then
        A.kept_until = now + 2 * least
    end
    return A.kept_until ~= before
end

local function expire(renewed)
    if A.kept_until == 0 then
        if renewed then
            for _, key in pairs(KEY) do call("PERSIST", key) end
        end
        return
    end
    local at = format("%d", A.kept_until * 1000)
    if renewed then
        for _, key in pairs(KEY) do call("PEXPIREAT", key, at) end
    else
        for key in pairs(written) do call("PEXPIREAT", key, at, "NX") end
    end
end

H.KEPT, H.expire, H.keep, H.written =
    KEPT, expire, keep, written

end
