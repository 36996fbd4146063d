package portmap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// upnp maps by a WANIPConnection or WANPPPConnection service of UPnP IGD. Many routers let any host remove any
// mapping, so it remembers which ones are its own.
type upnp struct {
	gateway, local netip.Addr
	client         *http.Client
	services       []service       // the one that mapped, or is most likely to, first
	lease          time.Duration   // that the router took last
	own            map[int]service // external ports that are mapped, or may be: there was no answer
}

func (u *upnp) protocol() Protocol { return UPnP }

func probeUPnP(ctx context.Context, gateway, local netip.Addr) (method, error) {
	u := &upnp{gateway: gateway, local: local, client: gatewayClient(gateway), lease: leases[0], own: make(map[int]service)}
	if err := u.find(ctx); err != nil {
		return nil, err
	}
	return u, nil
}

// find looks for the router's services and puts those that are connected first, those that are not last.
func (u *upnp) find(ctx context.Context) error {
	found, err := discover(ctx, u.client, u.gateway)
	if err != nil {
		return err
	}
	if len(found) > 1 {
		rank := make(map[service]int)
		for _, s := range found {
			r, err := u.call(ctx, s, "GetStatusInfo", nil)
			switch status := strings.ToLower(r["newconnectionstatus"]); {
			case err != nil || status == "":
				rank[s] = 1
			case status != "connected":
				rank[s] = 2
			}
		}
		slices.SortStableFunc(found, func(a, b service) int { return rank[a] - rank[b] })
	}
	u.services = found
	return nil
}

// add tries one service after the other. A router that has restarted may have its services elsewhere, so they
// are looked for again if none is there any more.
func (u *upnp) add(ctx context.Context, port, external int) (netip.AddrPort, time.Duration, error) {
	mapped, life, err := u.addAny(ctx, port, external)
	if err != nil && !errors.Is(err, ErrRefused) && !silent(err) && u.find(ctx) == nil {
		mapped, life, err = u.addAny(ctx, port, external)
	}
	return mapped, life, err
}

func (u *upnp) addAny(ctx context.Context, port, external int) (netip.AddrPort, time.Duration, error) {
	var first error
	for i, s := range u.services {
		at, err := u.addTo(ctx, s, port, external)
		if err != nil {
			if first == nil || errors.Is(err, ErrRefused) && !errors.Is(first, ErrRefused) {
				first = err
			}
			continue
		}
		u.services = slices.Insert(slices.Delete(u.services, i, i+1), 0, s)
		life := u.lease
		if life == 0 {
			life = wantLifetime // it stays; renewed all the same, for routers that restart
		}
		return netip.AddrPortFrom(u.externalIP(ctx, s), uint16(at)), life, nil
	}
	return netip.AddrPort{}, 0, first
}

// addTo asks one service in all ways that make sense and returns the external port.
func (u *upnp) addTo(ctx context.Context, s service, port, external int) (int, error) {
	w := walk{lease: max(slices.Index(leases[:], u.lease), 0), external: external, internal: port}
	for {
		err := u.addPort(ctx, s, &w)
		if err == nil {
			u.lease = leases[w.lease]
			return w.external, nil
		}
		var soap *soapError
		if !errors.As(err, &soap) {
			return 0, err // no answer, or none of the service's
		}
		if soap.code == errorConflict {
			// Some routers take a mapping that is there already for another host's.
			if e, _ := u.entry(ctx, s, port, w.external); e == entryOurs && u.removePort(ctx, s, w.external) == nil && u.addPort(ctx, s, &w) == nil {
				return w.external, nil
			}
		}
		if !w.next(soap.code) {
			return 0, fmt.Errorf("%w: %w", ErrRefused, err)
		}
	}
}

func (u *upnp) addPort(ctx context.Context, s service, w *walk) error {
	_, before := u.own[w.external]
	u.own[w.external] = s // even if the answer is lost
	_, err := u.call(ctx, s, "AddPortMapping", [][2]string{
		{"NewRemoteHost", ""}, {"NewExternalPort", strconv.Itoa(w.external)}, {"NewProtocol", "UDP"},
		{"NewInternalPort", strconv.Itoa(w.internal)}, {"NewInternalClient", u.local.String()}, {"NewEnabled", "1"},
		{"NewPortMappingDescription", "adit"}, {"NewLeaseDuration", strconv.Itoa(int(leases[w.lease] / time.Second))},
	})
	var soap *soapError
	if errors.As(err, &soap) && (!before || soap.code == errorConflict) {
		delete(u.own, w.external) // it was not mapped, or is another host's by now
	}
	return err
}

// An entry is what a router says of a mapping.
type entry int

const (
	entryUnknown entry = iota // it does not say
	entryOurs
	entryGone // or another host's
)

// entry asks for the mapping of an external port. An error is that of a service that does not answer.
func (u *upnp) entry(ctx context.Context, s service, port, external int) (entry, error) {
	r, err := u.call(ctx, s, "GetSpecificPortMappingEntry", [][2]string{
		{"NewRemoteHost", ""}, {"NewExternalPort", strconv.Itoa(external)}, {"NewProtocol", "UDP"},
	})
	var soap *soapError
	switch {
	case errors.As(err, &soap) && soap.code == errorNoEntry:
		return entryGone, nil
	case errors.As(err, &soap):
		return entryUnknown, nil
	case err != nil:
		return entryUnknown, err
	case r["newinternalclient"] == "":
		return entryUnknown, nil
	case r["newinternalclient"] == u.local.String() && r["newinternalport"] == strconv.Itoa(port):
		return entryOurs, nil
	}
	return entryGone, nil
}

// check asks for the entry of the mapping, since some routers write each mapping to their flash memory. A router
// that does not tell has not forgotten it.
func (u *upnp) check(ctx context.Context, port, external int) bool {
	s, ok := u.own[external]
	if !ok {
		return false
	}
	e, err := u.entry(ctx, s, port, external)
	return err == nil && e != entryGone
}

// remove removes all that is its own, whatever external is.
func (u *upnp) remove(ctx context.Context, _, _ int) error {
	var first error
	for external, s := range u.own {
		if err := u.removePort(ctx, s, external); first == nil {
			first = err
		}
	}
	clear(u.own)
	return first
}

func (u *upnp) removePort(ctx context.Context, s service, external int) error {
	_, err := u.call(ctx, s, "DeletePortMapping", [][2]string{
		{"NewRemoteHost", ""}, {"NewExternalPort", strconv.Itoa(external)}, {"NewProtocol", "UDP"},
	})
	return err
}

// externalIP returns the router's address, 0.0.0.0 if it names none.
func (u *upnp) externalIP(ctx context.Context, s service) netip.Addr {
	r, err := u.call(ctx, s, "GetExternalIPAddress", nil)
	if err != nil {
		return netip.IPv4Unspecified()
	}
	a, err := netip.ParseAddr(r["newexternalipaddress"])
	if err != nil || !a.Is4() {
		return netip.IPv4Unspecified()
	}
	return a
}

// A soapError is what a service says of a call that failed. The code is 0 if it gives none.
type soapError struct {
	code   int
	reason string
}

func (e *soapError) Error() string { return fmt.Sprintf("UPnP error %d %.80q", e.code, e.reason) }

// call does a SOAP action (UPnP Device Architecture §3.2) and returns the elements of the answer.
func (u *upnp) call(ctx context.Context, s service, action string, args [][2]string) (map[string]string, error) {
	var b strings.Builder
	b.WriteString(`<?xml version="1.0"?><s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/" ` +
		`s:encodingStyle="http://schemas.xmlsoap.org/soap/encoding/"><s:Body><u:` + action + ` xmlns:u="` + s.kind + `">`)
	for _, a := range args {
		b.WriteString("<" + a[0] + ">" + a[1] + "</" + a[0] + ">") // names, numbers and addresses: nothing to escape
	}
	b.WriteString(`</u:` + action + `></s:Body></s:Envelope>`)
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.control.String(), strings.NewReader(b.String()))
	if err != nil {
		return nil, err
	}
	r.Header.Set("Content-Type", `text/xml; charset="utf-8"`)
	r.Header["SOAPAction"] = []string{`"` + s.kind + `#` + action + `"`} // some routers mind the case
	resp, err := u.client.Do(r)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", action, err)
	}
	defer resp.Body.Close()
	doc, err := io.ReadAll(io.LimitReader(resp.Body, mostXML))
	if err != nil && silent(err) {
		return nil, fmt.Errorf("%s: %w", action, err)
	}
	out := make(map[string]string)
	for name, text := range elements(doc) {
		if _, known := out[name]; !known {
			out[name] = text
		}
	}
	code, numeric := strconv.Atoi(out["errorcode"])
	_, fault := out["fault"]
	switch {
	case numeric == nil && code != 0, fault:
		return nil, &soapError{code, out["errordescription"]}
	case resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed:
		return nil, fmt.Errorf("%s: HTTP status %d", action, resp.StatusCode) // the service is elsewhere by now
	case resp.StatusCode != http.StatusOK:
		return nil, &soapError{0, resp.Status}
	}
	return out, nil
}
