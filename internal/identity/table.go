package identity

import (
	"fmt"
	"strconv"
	"strings"
)

// Table returns what is known of the peer as a table of a file of peers: its head, and a line for each
// thing.
func (p Peer) Table() string {
	var b strings.Builder
	fmt.Fprintf(&b, "[%s.%s]\n", table, p.Name)
	if !p.Key.IsZero() {
		fmt.Fprintf(&b, "key = %q\n", p.Key)
	}
	list := func(key string, texts []string) {
		if texts != nil {
			fmt.Fprintf(&b, "%s = %s\n", key, QuoteList(texts))
		}
	}
	list("signal", p.Signal)
	list("allow", p.Allow)
	if p.Local != nil {
		fmt.Fprintf(&b, "local = %v\n", *p.Local)
	}
	list("remote", p.Remote)
	list("dynamic", p.Dynamic)
	if p.Streams != nil {
		fmt.Fprintf(&b, "streams = %d\n", *p.Streams)
	}
	return b.String()
}

// QuoteList returns texts as a TOML array.
func QuoteList(texts []string) string {
	quoted := make([]string, 0, len(texts))
	for _, s := range texts {
		quoted = append(quoted, Quote(s))
	}
	return "[" + strings.Join(quoted, ", ") + "]"
}

// Quote returns s as a TOML basic string. What is not UTF-8 is replaced.
func Quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range strings.ToValidUTF8(s, "\uFFFD") {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			b.WriteString(`\u00` + strconv.FormatInt(int64(r)+0x100, 16)[1:])
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}
