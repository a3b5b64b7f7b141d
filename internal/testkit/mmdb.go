package testkit

import (
	"bytes"
	"encoding/binary"
)

// MMDB writes a file in MaxMind's format (version 2.0) that knows the country of one
// IPv4 network of 8 bits: eight nodes of 24-bit records, a data section, metadata.
func MMDB(network byte, country string) []byte {
	text := func(s string) []byte { return append([]byte{2<<5 | byte(len(s))}, s...) }
	number := func(kind byte, n uint64) []byte { // of up to 8 bytes, of a kind above 7 extended
		b := binary.BigEndian.AppendUint64(nil, n)
		for len(b) > 0 && b[0] == 0 {
			b = b[1:]
		}
		if kind > 7 {
			return append([]byte{byte(len(b)), kind - 7}, b...)
		}
		return append([]byte{kind<<5 | byte(len(b))}, b...)
	}
	object := func(pairs ...[]byte) []byte {
		return append([]byte{7<<5 | byte(len(pairs)/2)}, bytes.Join(pairs, nil)...)
	}
	const nodes = 8
	var tree []byte
	record := func(n uint32) { tree = append(tree, byte(n>>16), byte(n>>8), byte(n)) }
	for i := range uint32(nodes) {
		next := i + 1
		if next == nodes {
			next = nodes + 16 // the first entry of the data section
		}
		for bit := range byte(2) {
			if network>>(7-i)&1 == bit {
				record(next)
			} else {
				record(nodes) // nothing is known
			}
		}
	}
	data := object(text("country"), object(text("iso_code"), text(country)))
	meta := object(
		text("binary_format_major_version"), number(5, 2), text("binary_format_minor_version"), number(5, 0),
		text("build_epoch"), number(9, 1), text("database_type"), text("Country"), text("description"), object(text("en"), text("test")),
		text("ip_version"), number(5, 4), text("languages"), append([]byte{1, 11 - 7}, text("en")...),
		text("node_count"), number(6, nodes), text("record_size"), number(5, 24))
	return bytes.Join([][]byte{tree, make([]byte, 16), data, []byte("\xab\xcd\xefMaxMind.com"), meta}, nil)
}
