package disk

import (
	"fmt"
	"math/bits"
	"strings"
)

// names32 lists the set bits of v by the words of table, one a bit, lowest
// first. A bit without a word ("-", or beyond the table) is given in hexadecimal.
func names32(v uint32, table string) []string {
	words := strings.Fields(table)
	var out []string
	for ; v != 0; v &= v - 1 {
		i := bits.TrailingZeros32(v)
		if i < len(words) && words[i] != "-" {
			out = append(out, words[i])
		} else {
			out = append(out, fmt.Sprintf("%#x", v&-v))
		}
	}
	return out
}
