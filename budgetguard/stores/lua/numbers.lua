-- Exact integers. A double of Lua holds them up to 2^53 only, and amounts reach 10^18 and more.
--
-- An amount is a plain number from -SMALL to SMALL, and beyond that a pair {high, low}, which stands for
-- high * LIMB + low. Each has one form only. So + and - on amounts are `plus` and `minus`, < is `less`.
-- No bound at all is `huge`, which may be added to, but never subtracted.

-- What the files have of each other.
local H = {}

do

local floor, fmod, huge, format = math.floor, math.fmod, math.huge, string.format
local NEVER = -huge
local TICKS = 2^20
local TICK = 1 / TICKS

local LIMB, SMALL, SMALL_LIMBS, DIGITS = 1e12, 9007e12, 9007, 1e6

local function limbs(amount)
    if type(amount) == "table" then return amount[1], amount[2] end
    local high = floor(amount / LIMB)
    local low = amount - high * LIMB
    if low < 0 then return high - 1, low + LIMB end
    if low >= LIMB then return high + 1, low - LIMB end
    return high, low
end

local function amount_of(high, low)
    local carry = floor(low / LIMB)
    high, low = high + carry, low - carry * LIMB
    if high >= -SMALL_LIMBS and high < SMALL_LIMBS then return high * LIMB + low end
    return {high, low}
end

local function plus(a, b)
    if type(a) == "number" and type(b) == "number" then
        local sum = a + b
        if (sum < SMALL and sum >= -SMALL) or sum == huge then return sum end
    end
    if a == huge or b == huge then return huge end
    local high, low = limbs(a)
    local more_high, more_low = limbs(b)
    return amount_of(high + more_high, low + more_low)
end

local function minus(a, b)
    if type(a) == "number" and type(b) == "number" then
        local rest = a - b
        if (rest < SMALL and rest >= -SMALL) or rest == huge then return rest end
    end
    if a == huge then return huge end
    local high, low = limbs(a)
    local less_high, less_low = limbs(b)
    return amount_of(high - less_high, low - less_low)
end

local function less(a, b)
    if type(a) == "number" and type(b) == "number" then return a < b end
    if a == huge then return false end
    if b == huge then return true end
    local high, low = limbs(a)
    local other_high, other_low = limbs(b)
    return high < other_high or (high == other_high and low < other_low)
end

local function same(a, b)
    if type(a) == "table" and type(b) == "table" then return a[1] == b[1] and a[2] == b[2] end
    return a == b
end

local function most(a, b) return less(a, b) and b or a end
local function least(a, b) return less(b, a) and b or a end
local function positive(a) return less(0, a) end

-- a * count, for a whole number `count`.
local function times(a, count)
    if type(a) == "number" and a < 1e6 and a > -1e6 and count < 1e6 then return a * count end
    local product = 0
    while count > 0 do
        if fmod(count, 2) == 1 then product = plus(product, a) end
        a, count = plus(a, a), floor(count / 2)
    end
    return product
end

-- a // by, for a >= 0 and a whole number `by` up to 10^9.
local function share(a, by)
    if type(a) == "number" then
        return (a - fmod(a, by)) / by
    end
    local high, low = a[1], a[2]
    local places, rest = {floor(high / DIGITS), fmod(high, DIGITS), floor(low / DIGITS), fmod(low, DIGITS)}, 0
    for place = 1, 4 do
        local digits = rest * DIGITS + places[place]
        rest = fmod(digits, by)
        places[place] = (digits - rest) / by
    end
    return amount_of(places[1] * DIGITS + places[2], places[3] * DIGITS + places[4])
end

-- a % by, for by > 0: never negative.
local function remainder(a, by)
    if type(a) == "number" and type(by) == "number" then
        local rest = fmod(a, by)
        return rest < 0 and rest + by or rest
    end
    local negative = less(a, 0)
    local rest, steps = negative and minus(0, a) or a, {by}
    while not less(rest, steps[#steps]) do steps[#steps + 1] = plus(steps[#steps], steps[#steps]) end
    for place = #steps, 1, -1 do
        if not less(rest, steps[place]) then rest = minus(rest, steps[place]) end
    end
    return negative and positive(rest) and minus(by, rest) or rest
end

-- An amount as JSON has it here: a number, or beyond what a double holds its digits.
local function amount_from(value)
    if type(value) ~= "string" then return value or 0 end
    local sign, digits = value:match("^(-?)(%d+)$")
    if #digits <= 12 then return tonumber(value) end
    local found = amount_of(tonumber(digits:sub(1, -13)), tonumber(digits:sub(-12)))
    return sign == "-" and minus(0, found) or found
end

local function amount_text(amount)
    if type(amount) == "number" then return format("%.17g", amount) end
    if amount[1] >= 0 then return format("%.0f%012.0f", amount[1], amount[2]) end
    return "-" .. amount_text(minus(0, amount))
end

-- Times are seconds, whole multiples of TICK.

local function ticks_down(seconds) return floor(seconds * TICKS) / TICKS end
local function ticks_up(seconds) return math.ceil(seconds * TICKS) / TICKS end

H.NEVER, H.TICK, H.TICKS, H.amount_from, H.amount_text, H.floor, H.fmod, H.format, H.huge, H.least, H.less,
    H.minus, H.most, H.plus, H.positive, H.remainder, H.same, H.share, H.ticks_down, H.ticks_up, H.times =
    NEVER, TICK, TICKS, amount_from, amount_text, floor, fmod, format, huge, least, less, minus, most, plus,
    positive, remainder, same, share, ticks_down, ticks_up, times

end
