package config

import "strings"

// lineOf finds the line where a key of a table stands, or with no key the table itself; 0 if it is
// written in a way this does not follow. The decoder does not tell.
func lineOf(text, table, key string) int {
	at := ""
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			at = tableIn(line)
			if key == "" && at == table {
				return i + 1
			}
			continue
		}
		left, _, found := strings.Cut(line, "=")
		left = strings.Trim(left, " \t\"'")
		if found && (at == table && left == key || at == "" && left == table+"."+key) {
			return i + 1
		}
	}
	return 0
}

// tableIn returns the name of the table that begins in a line.
func tableIn(line string) string {
	line = strings.TrimLeft(line, "[ \t")
	return strings.Trim(line[:strings.IndexByte(line+"]", ']')], " \t\"'")
}

// nthTable finds the lines of the n-th table of an array: that of its header, and that behind its end.
// They are 0 if it is written in a way this does not follow.
func nthTable(text, name string, n int) (start, end int) {
	lines := strings.Split(text, "\n")
	for i, line := range lines {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "[") {
			continue
		}
		if start > 0 {
			return start, i + 1
		}
		if strings.HasPrefix(line, "[[") && tableIn(line) == name {
			if n == 0 {
				start = i + 1
			}
			n--
		}
	}
	if start > 0 {
		end = len(lines) + 1
	}
	return start, end
}

// lineWithin finds the line of a key between two lines.
func lineWithin(text string, start, end int, key string) int {
	for i, line := range strings.Split(text, "\n") {
		left, _, found := strings.Cut(line, "=")
		if n := i + 1; found && n > start && n < end && strings.Trim(left, " \t\"'") == key {
			return n
		}
	}
	return start
}
