-- The requests of one run, for wrk: wrk … -s load.lua URL -- TOKEN ROWS TAG PREPARED
-- PREPARED is a file with the order of kinds, cursors and sets of ids, made by work.py, whose requests these are.

local kinds, cursors, sets, makers = {}, {}, {}, {}
local count = 0

function init(args)
   local token, rows, tag, prepared = args[1], tonumber(args[2]), args[3], args[4]
   math.randomseed(tonumber(tag))
   for line in io.lines(prepared) do
      local what, value = line:match("^(%a+) (.*)$")
      local list = ({kind = kinds, cursor = cursors, ids = sets})[what]
      list[#list + 1] = value
   end
   local head = " HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer " .. token .. "\r\n"
   local json = head .. "Content-Type: application/json\r\nContent-Length: "

   local function with_body(start, body)
      return start .. json .. #body .. "\r\n\r\n" .. body
   end
   makers.point = function()
      return "GET /users/" .. math.random(rows) .. head .. "\r\n"
   end
   local pages, lookups = {}, {}
   for number, cursor in ipairs(cursors) do
      pages[number] = "GET /users?limit=100&cursor=" .. cursor .. head .. "\r\n"
   end
   for number, ids in ipairs(sets) do
      lookups[number] = with_body("POST /users/lookup", '{"ids":[' .. ids .. "]}")
   end
   makers.page = function() return pages[math.random(#pages)] end
   makers.lookup = function() return lookups[math.random(#lookups)] end
   makers.patch = function()
      local name = string.format("Name %08d", math.random(0, 99999999))
      return with_body("PATCH /users/" .. math.random(rows), '{"display_name":"' .. name .. '"}')
   end
   makers.create = function()
      local email = string.format("bench-%s-%09d@example.com", tag, count)
      return with_body(
         "POST /users",
         '{"email":"' .. email .. '","password":"correct horse","display_name":"Bench"}'
      )
   end
end

function request()
   count = count + 1
   return makers[kinds[count % #kinds + 1]]()
end

function done(summary, latency)
   local errors = summary.errors
   io.write(string.format(
      '\n{"requests":%d,"bytes":%d,"seconds":%.6f,"p50":%.3f,"p90":%.3f,"p99":%.3f,"p99.9":%.3f,'
         .. '"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}\n',
      summary.requests, summary.bytes, summary.duration / 1e6,
      latency:percentile(50) / 1e3, latency:percentile(90) / 1e3,
      latency:percentile(99) / 1e3, latency:percentile(99.9) / 1e3,
      errors.connect, errors.read, errors.write, errors.status, errors.timeout
   ))
end
