package peer

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"syscall"

	"adit/internal/carry"
	"adit/internal/event"
	"adit/internal/reach"
	"adit/internal/turn"
)

// A relayFault says what keeps this side from a relay that was named, and what would help.
type relayFault struct{ reason, advice string }

// relayFaultOf puts an error of a relay into words. name is its URL, or that of a rendezvous that may carry packets.
func relayFaultOf(name string, err error) relayFault {
	var (
		unknown x509.UnknownAuthorityError
		wrong   x509.HostnameError
		invalid x509.CertificateInvalidError
		proxy   *reach.ProxyError
		dns     *net.DNSError
		timeout net.Error
	)
	say := func(what, advice string) relayFault { return relayFault{"the relay " + name + " " + what, advice} }
	switch {
	case errors.As(err, &proxy):
		return relayFault{"the relay " + name + ": " + proxy.Error(), "give the proxy's name and password in HTTPS_PROXY, or have it allow the relay"}
	case errors.As(err, &unknown):
		return say("has a certificate that nobody known here has signed", "give it a certificate of a public authority, or have this machine trust its own; if it has one, something on the way opens TLS")
	case errors.As(err, &wrong):
		return say("has a certificate for another name", "use the name that stands in its certificate, or get a certificate for this one")
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return say("has a certificate that has expired or is not valid yet", "renew it, and see whether this machine's clock is right")
	case errors.As(err, &invalid):
		return say("has a certificate that is not valid", "give it another certificate")
	case errors.Is(err, turn.ErrUnauthorized):
		return say("does not accept the name and password", "see that --turn-secret of the rendezvous, or --turn-user and its password here, are those of the relay, and that both clocks are right")
	case errors.Is(err, turn.ErrQuota):
		return say("has no room", "wait, or allow more at the relay")
	case errors.Is(err, turn.ErrForbidden):
		return say("refuses", "see the relay's log")
	case errors.Is(err, carry.ErrUpgrade):
		return relayFault{"the rendezvous cannot carry packets: " + carry.ErrUpgrade.Error(),
			"have the reverse proxy in front of it pass on Upgrade and Connection: docs/rendezvous.md has the lines"}
	case errors.As(err, &dns):
		return say("has a name that does not resolve: "+dns.Err, "see the name, and this machine's name server")
	case errors.Is(err, syscall.ECONNREFUSED):
		return say("does not run: nothing listens there", "start it")
	case errors.Is(err, turn.ErrTimeout), errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return say("does not answer", "see whether it runs, and whether a firewall lets this machine reach it")
	}
	return say(fmt.Sprintf("cannot be had: %v", err), "see its log")
}

// relayFailed notes why a relay that was named cannot be had. A session that is interrupted says so at once.
func (e *endpoint) relayFailed(name string, err error) {
	f := relayFaultOf(name, err)
	e.mu.Lock()
	news := !slices.Contains(e.relays.faults, f) && len(e.relays.faults) < 8
	if news {
		e.relays.faults = append(e.relays.faults, f)
	}
	tell := news && e.interrupted
	e.mu.Unlock()
	if tell {
		e.cfg.Events.Emit(event.Event{Name: event.Interrupted, Message: f.reason, Hint: f.advice})
	}
}

// relayFault returns why there is no relay though one was named; false if nothing is known.
func (e *endpoint) relayFault() (relayFault, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if len(e.relays.faults) == 0 {
		return relayFault{}, false
	}
	// A refusal in words tells more than silence, which a blocked UDP port is as well.
	best := e.relays.faults[0]
	for _, f := range e.relays.faults[1:] {
		if strings.HasSuffix(best.reason, "does not answer") {
			best = f
		}
	}
	return best, true
}
