-- One token after another, in an order of its own. TOKENS: file with one a line.
local tokens, n, i = {}, 0, 0
for l in io.lines(os.getenv("TOKENS")) do
  n = n + 1
  tokens[n] = l
end
local step = 7919 -- a prime: neighbours in the file are not asked for one after the other
function request()
  i = (i + step) % n
  return wrk.format("GET", nil, { ["Authorization"] = "Bearer " .. tokens[i + 1] })
end
