-- Replies are JSON, written here: the encoder that the engines bring rounds to 14 digits.

do

local NEVER, amount_text, floor, format, huge =
    H.NEVER, H.amount_text, H.floor, H.format, H.huge

local null = cjson.null
local quoted = cjson.encode

local function given(value) if value ~= nil and value ~= null then return value end end

-- A time from the wire, where null is one that never came.
local function time_from(value) return value == null and NEVER or value end

local function json_number(value)
    if type(value) == "table" then return amount_text(value) end
    if value == huge or value == NEVER or value == nil then return "null" end
    -- The former is several times faster.
    if value == floor(value) then return format("%d", value) end
    return format("%.17g", value)
end

local function json_numbers(values)
    local texts = {}
    for place, value in ipairs(values) do texts[place] = json_number(value) end
    return "[" .. table.concat(texts, ",") .. "]"
end

local function json_list(values, text)
    local texts = {}
    for place, value in ipairs(values) do texts[place] = text(value) end
    return "[" .. table.concat(texts, ",") .. "]"
end

-- Pairs of a name and a number, from a table by name.
local function json_counts(counts)
    local texts = {}
    for name, count in pairs(counts) do
        texts[#texts + 1] = "[" .. quoted(name) .. "," .. json_number(count) .. "]"
    end
    return "[" .. table.concat(texts, ",") .. "]"
end

-- An object, as a list of texts to which members are added.
local function put(object, name, text) object[#object + 1] = '"' .. name .. '":' .. text end
local function put_number(object, name, value)
    if value ~= 0 then object[#object + 1] = '"' .. name .. '":' .. json_number(value) end
end
local function put_time(object, name, value)
    if value ~= nil and value ~= NEVER then object[#object + 1] = '"' .. name .. '":' .. json_number(value) end
end
local function json_object(object) return "{" .. table.concat(object, ",") .. "}" end

-- Any value that is stored, for people and tests: an empty table is written as a list.
local json_any
function json_any(value)
    local kind = type(value)
    if kind == "number" then return value == NEVER and '"-inf"' or value == huge and '"inf"' or json_number(value) end
    if kind == "boolean" then return value and "true" or "false" end
    if kind == "string" then return quoted(value) end
    if kind ~= "table" then return "null" end
    local texts = {}
    if #value > 0 or next(value) == nil then
        for place, each in ipairs(value) do texts[place] = json_any(each) end
        return "[" .. table.concat(texts, ",") .. "]"
    end
    for name, each in pairs(value) do
        texts[#texts + 1] = quoted(tostring(name)) .. ":" .. json_any(each)
    end
    return "{" .. table.concat(texts, ",") .. "}"
end

H.json_any, H.json_counts, H.json_list, H.json_number, H.json_numbers, H.json_object, H.put, H.put_number,
    H.put_time, H.quoted, H.time_from =
    json_any, json_counts, json_list, json_number, json_numbers, json_object, put, put_number, put_time,
    quoted, time_from

end
