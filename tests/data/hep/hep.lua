-- HEP versions 1, 2 and 3 for tshark, as a second opinion on our decoder: fields only, no payload dissection.
--   tshark -X lua_script:hep.lua -r capture.pcap -Y hep -T fields -e hep.src -e hep.payload ...
local hep = Proto("hep", "Homer Encapsulation Protocol")

local field = {
  version = ProtoField.uint8("hep.version", "Version"),
  ip_proto = ProtoField.uint8("hep.ip_proto", "IP protocol"),
  src = ProtoField.string("hep.src", "Source address"),
  dst = ProtoField.string("hep.dst", "Destination address"),
  src_port = ProtoField.uint16("hep.src_port", "Source port"),
  dst_port = ProtoField.uint16("hep.dst_port", "Destination port"),
  seconds = ProtoField.uint32("hep.seconds", "Seconds"),
  microseconds = ProtoField.uint32("hep.microseconds", "Microseconds"),
  kind = ProtoField.uint8("hep.kind", "Protocol type"),
  agent = ProtoField.uint32("hep.agent", "Capture agent"),
  key = ProtoField.bytes("hep.key", "Authenticate key"),
  correlation = ProtoField.bytes("hep.correlation", "Correlation id"),
  payload = ProtoField.bytes("hep.payload", "Payload"),
}
for _, each in pairs(field) do table.insert(hep.fields, each) end

local function as_ipv4(range) return tostring(range:ipv4()) end
local function as_ipv6(range) return tostring(range:ipv6()) end

-- chunk type of the generic vendor -> field, and how to read an address
local chunk_field = {
  [0x02] = { field.ip_proto },
  [0x03] = { field.src, as_ipv4 },
  [0x04] = { field.dst, as_ipv4 },
  [0x05] = { field.src, as_ipv6 },
  [0x06] = { field.dst, as_ipv6 },
  [0x07] = { field.src_port },
  [0x08] = { field.dst_port },
  [0x09] = { field.seconds },
  [0x0a] = { field.microseconds },
  [0x0b] = { field.kind },
  [0x0c] = { field.agent },
  [0x0e] = { field.key },
  [0x0f] = { field.payload },
  [0x11] = { field.correlation },
}

local function add(tree, entry, range)
  if entry[2] then tree:add(entry[1], range, entry[2](range)) else tree:add(entry[1], range) end
end

local function dissect_chunks(buffer, tree)
  local at = 6
  while at < buffer(4, 2):uint() do
    local vendor, kind, length = buffer(at, 2):uint(), buffer(at + 2, 2):uint(), buffer(at + 4, 2):uint()
    local entry = chunk_field[kind]
    if vendor == 0 and entry and length > 6 then add(tree, entry, buffer(at + 6, length - 6)) end
    at = at + length
  end
end

local function dissect_struct(buffer, tree, version)
  local address_bytes, read = 16, as_ipv6
  if buffer(2, 1):uint() == 2 then address_bytes, read = 4, as_ipv4 end
  tree:add(field.ip_proto, buffer(3, 1))
  tree:add(field.src_port, buffer(4, 2))
  tree:add(field.dst_port, buffer(6, 2))
  add(tree, { field.src, read }, buffer(8, address_bytes))
  add(tree, { field.dst, read }, buffer(8 + address_bytes, address_bytes))
  local at = 8 + 2 * address_bytes
  if version == 2 then
    tree:add_le(field.seconds, buffer(at, 4))
    tree:add_le(field.microseconds, buffer(at + 4, 4))
    tree:add_le(field.agent, buffer(at + 8, 2))
    at = at + 12
  end
  if at < buffer:len() then tree:add(field.payload, buffer(at)) end
end

function hep.dissector(buffer, _, root)
  local tree = root:add(hep, buffer())
  if buffer:len() > 6 and buffer(0, 4):string() == "HEP3" then
    tree:add(field.version, buffer(0, 4), 3)
    dissect_chunks(buffer, tree)
  else
    local version = buffer(0, 1):uint()
    tree:add(field.version, version)
    dissect_struct(buffer, tree, version)
  end
  return buffer:len()
end

DissectorTable.get("udp.port"):add(9060, hep)
