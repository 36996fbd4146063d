package tunnel

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// maxPorts is how many ports one forward may name.
const maxPorts = 1024

const rangeExample = "for example 8000-8010:host:9000-9010 or 80,443:host"

// ParseForwards reads what ParseForward does, and several ports at once, as lists of ports and of ranges:
//
//	ports:host                    the same ports of the host
//	ports:host:ports              as many, one to one
//	bind:ports:host:ports         either with /udp behind
//
// The error is a sentence with an example.
func ParseForwards(s string) ([]Forward, error) {
	forwards, err := parseForwards(s)
	if err != nil {
		if better, ok := withBrackets(s, parseForwards); ok {
			return nil, fmt.Errorf("forward %q: an IPv6 address stands in brackets, write %s", s, better)
		}
		return nil, err
	}
	return forwards, nil
}

func parseForwards(s string) ([]Forward, error) {
	text, udp := strings.CutSuffix(s, udpSuffix)
	fields := splitFields(text)
	at := slices.IndexFunc(fields[:min(len(fields), 2)], severalPorts)
	if _, socket := cutPath(s); socket || at < 0 || at == 1 && digits(fields[0]) {
		if last := fields[len(fields)-1]; len(fields) > 2 && severalPorts(last) && !bareSocket(last) {
			return nil, fmt.Errorf("forward %q has one port to listen at and several to go to: %s", s, rangeExample)
		}
		f, err := parseForward(s)
		return []Forward{f}, err
	}
	ports, err := parsePortList(fields[at])
	if err != nil {
		return nil, fmt.Errorf("forward %q: %v; %s", s, err, rangeExample)
	}
	to, rest := ports, fields[at+1:]
	switch {
	case len(rest) == 0:
		return nil, fmt.Errorf("forward %q names several ports and no host: write %s:localhost, %s", s, text, rangeExample)
	case bareSocket(rest[0]) || rest[0] == "unix":
		return nil, fmt.Errorf("forward %q has several ports and one socket: give each port a forward of its own", s)
	case len(rest) > 2 || rest[0] == "":
		return nil, fmt.Errorf("forward %q makes no sense: %s", s, rangeExample)
	case len(rest) == 2:
		if to, err = parsePortList(rest[1]); err != nil {
			return nil, fmt.Errorf("forward %q: %v; %s", s, err, rangeExample)
		}
		if len(to) != len(ports) {
			return nil, fmt.Errorf("forward %q has %d ports to listen at and %d to go to: as many of both, %s", s, len(ports), len(to), rangeExample)
		}
	}
	var forwards []Forward
	for i, p := range ports {
		one := strings.Join(append(slices.Clone(fields[:at]), strconv.Itoa(p), rest[0], strconv.Itoa(to[i])), ":")
		if udp {
			one += udpSuffix
		}
		f, err := parseForward(one)
		if err != nil {
			return nil, err
		}
		forwards = append(forwards, f)
	}
	return forwards, nil
}

// splitFields splits s at the colons outside brackets.
func splitFields(s string) []string {
	var fields []string
	for {
		field, rest, found := cutPort(s)
		fields = append(fields, field)
		if !found {
			return fields
		}
		s = rest
	}
}

// severalPorts reports whether s is meant as a list or a range: digits, and a comma or a dash between some.
func severalPorts(s string) bool {
	return strings.ContainsAny(s, ",-") && strings.Trim(s, "0123456789,-") == "" && s[0] != '-' && s[0] != ','
}

// parsePortList reads ports and ranges of ports, separated by commas. No port comes twice.
func parsePortList(s string) ([]int, error) {
	var ports []int
	for _, item := range strings.Split(s, ",") {
		if item == "*" {
			return nil, fmt.Errorf("%q is not a port", item)
		}
		lo, hi, err := parsePorts(item)
		if err != nil {
			return nil, err
		}
		if len(ports)+hi-lo+1 > maxPorts {
			return nil, fmt.Errorf("%s is more than %d ports", s, maxPorts)
		}
		for p := lo; p <= hi; p++ {
			if slices.Contains(ports, p) {
				return nil, fmt.Errorf("%s names port %d twice", s, p)
			}
			ports = append(ports, p)
		}
	}
	return ports, nil
}
