package rendezvous

import (
	"net/http"
	"strconv"
	"strings"

	"adit/signal"
)

// An action is what a request asks for.
type action int

const (
	actNone      action = iota
	actHealth           // GET    /v1/health
	actReady            // GET    /v1/ready
	actICE              // GET    /v1/ice
	actCreate           // POST   /v1/room
	actJoin             // POST   /v1/room/{nameplate}/join
	actPut              // PUT    /v1/room/{id}/{seq}
	actGet              // GET    /v1/room/{id}/{seq}
	actTURN             // GET    /v1/room/{id}/turn
	actLeave            // DELETE /v1/room/{id}
	actCarry            // GET    /v1/carry/{id}/{side}
	actPost             // PUT    /v1/mailbox/{id}/{side}/{number}
	actFetch            // GET    /v1/mailbox/{id}/{side}/{after}
	actBoxTURN          // GET    /v1/mailbox/{id}/{side}/turn
	actKeyAsk           // GET    /v1/key/{key}
	actKeyNonce         // POST   /v1/key/{key}/claim
	actKeyClaim         // PUT    /v1/key/{key}/claim
	actKeyPoll          // GET    /v1/key/{key}/offers/{after}/{challenge}
	actKeyOffer         // POST   /v1/key/{key}/offers
	actKeyAccept        // POST   /v1/key/{key}/offers/{id}
	actKeyLeave         // DELETE /v1/key/{key}/claim
	actBadVerb          // a path of ours, but not with this method
)

// A route is a request line that was understood.
type route struct {
	action action
	name   string // of the room: its nameplate or its id
	seq    int    // of a message, or a side
	after  int64  // the number of a letter, or of the last letter or offer

	key signal.KeyName // of a mailbox by key
}

const (
	minNameplate = 4
	maxNameplate = 10
	idChars      = 32 // 128 bits in hexadecimal; tokens are like that too
)

// parseRoute reads a method and a path. What it does not know is actNone; names have the right form
// in what it returns, and seq is 0 to 9999.
func parseRoute(method, path string) route {
	rest, ok := strings.CutPrefix(path, "/v1/")
	if !ok || len(path) > 160 {
		return route{}
	}
	verbs := func(want string, r route) route {
		if method == want || want == http.MethodGet && method == http.MethodHead {
			return r
		}
		return route{action: actBadVerb}
	}
	part := strings.Split(rest, "/")
	if len(part) == 3 && part[0] == "carry" && isHex(part[1]) && (part[2] == "0" || part[2] == "1") {
		if method != http.MethodGet {
			return route{action: actBadVerb}
		}
		return route{action: actCarry, name: part[1], seq: int(part[2][0] - '0')}
	}
	if len(part) == 4 && part[0] == "mailbox" && isHex(part[1]) && (part[2] == "0" || part[2] == "1") {
		r := route{action: actFetch, name: part[1], seq: int(part[2][0] - '0')}
		if part[3] == "turn" {
			r.action = actBoxTURN
			return verbs(http.MethodGet, r)
		}
		if !isDigits(part[3]) || len(part[3]) > numberDigits {
			return route{}
		}
		r.after, _ = strconv.ParseInt(part[3], 10, 64) // so many digits fit
		if method == http.MethodPut {
			r.action = actPost
			return r
		}
		return verbs(http.MethodGet, r)
	}
	if part[0] == "key" {
		return parseKeyRoute(method, part[1:])
	}
	if part[0] != "room" {
		switch rest {
		case "health":
			return verbs(http.MethodGet, route{action: actHealth})
		case "ready":
			return verbs(http.MethodGet, route{action: actReady})
		case "ice":
			return verbs(http.MethodGet, route{action: actICE})
		}
		return route{}
	}
	switch {
	case len(part) == 1:
		return verbs(http.MethodPost, route{action: actCreate})
	case len(part) == 3 && part[2] == "join" && isNameplate(part[1]):
		return verbs(http.MethodPost, route{action: actJoin, name: part[1]})
	case len(part) == 2 && isHex(part[1]):
		return verbs(http.MethodDelete, route{action: actLeave, name: part[1]})
	case len(part) == 3 && isHex(part[1]) && part[2] == "turn":
		return verbs(http.MethodGet, route{action: actTURN, name: part[1]})
	case len(part) == 3 && isHex(part[1]) && len(part[2]) <= 4 && isDigits(part[2]):
		seq, err := strconv.Atoi(part[2])
		if err != nil || strconv.Itoa(seq) != part[2] {
			return route{}
		}
		switch method {
		case http.MethodPut:
			return route{action: actPut, name: part[1], seq: seq}
		case http.MethodGet:
			return route{action: actGet, name: part[1], seq: seq}
		}
		return route{action: actBadVerb}
	}
	return route{}
}

// parseKeyRoute reads what follows /v1/key/.
func parseKeyRoute(method string, part []string) route {
	var r route
	if len(part) == 0 || len(part[0]) != 2*signal.KeyNameLen || !isHexDigits(part[0]) {
		return r
	}
	copy(r.key[:], fromHex(part[0]))
	verbs := map[string]action{}
	switch {
	case len(part) == 1:
		verbs[http.MethodGet] = actKeyAsk
	case len(part) == 2 && part[1] == "claim":
		verbs[http.MethodPost], verbs[http.MethodPut], verbs[http.MethodDelete] = actKeyNonce, actKeyClaim, actKeyLeave
	case len(part) == 2 && part[1] == "offers":
		verbs[http.MethodPost] = actKeyOffer
	case len(part) == 3 && part[1] == "offers" && isHex(part[2]):
		r.name = part[2]
		verbs[http.MethodPost] = actKeyAccept
	case len(part) == 4 && part[1] == "offers" && isDigits(part[2]) && len(part[2]) <= numberDigits && isHex(part[3]):
		r.after, _ = strconv.ParseInt(part[2], 10, 64) // so many digits fit
		r.name = part[3]
		verbs[http.MethodGet] = actKeyPoll
	default:
		return route{}
	}
	if r.action = verbs[method]; r.action == actNone {
		return route{action: actBadVerb}
	}
	return r
}

func isNameplate(s string) bool {
	return len(s) >= minNameplate && len(s) <= maxNameplate && isDigits(s)
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// isHex says whether s has the form of an id or a token.
func isHex(s string) bool {
	return len(s) == idChars && isHexDigits(s)
}

func isHexDigits(s string) bool {
	for i := range len(s) {
		if (s[i] < '0' || s[i] > '9') && (s[i] < 'a' || s[i] > 'f') {
			return false
		}
	}
	return true
}
