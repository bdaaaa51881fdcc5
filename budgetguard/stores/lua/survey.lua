-- What has to be true of a server and of an account's keys, when a member joins or an account is made.

do

local KEY, call = H.KEY, H.call

local KINDS = {
    interested = "set", refreshing = "set", silence = "zset", unanswered = "zset", clearing = "zset",
    cleared = "zset", kept_next = "zset", kept_last = "zset", budget_names = "zset", budget_members = "zset",
}

local function survey()
    -- Some services do not tell it.
    local policy = call("INFO", "memory"):match("maxmemory_policy:([%w-]+)")
    -- Also without a limit: one that is set later would evict at once.
    if policy and policy ~= "noeviction" then error("evicts=" .. policy) end
    local found = {}
    for name, key in pairs(KEY) do
        local kind = call("TYPE", key).ok
        if kind ~= "none" then
            if kind ~= (KINDS[name] or "hash") then error("taken=" .. key) end
            found[#found + 1] = key
        end
    end
    -- The rest of an account that was deleted in part.
    if #found > 0 and call("TYPE", KEY.account).ok == "none" then call("DEL", unpack(found)) end
end

H.survey =
    survey

end
