package portmap

import "time"

// Errors of UPnP's WANIPConnection (§2.4.17 of its description).
const (
	errorAction     = 401 // InvalidAction
	errorAuthorized = 606 // ActionNotAuthorized
	errorNoEntry    = 714 // NoSuchEntryInArray
	errorConflict   = 718 // ConflictInMappingEntry
	errorSamePorts  = 724 // SamePortValuesRequired
	errorPermanent  = 725 // OnlyPermanentLeasesSupported
	errorNoMaps     = 728 // NoPortMapsAvailable
	errorOther      = 729 // ConflictWithOtherMechanisms
)

// leases are the lifetimes that a router is asked for, in this order; 0 is one without an end. Some routers take
// at most an hour, some only ones without an end, some at most minutes.
var leases = [...]time.Duration{wantLifetime, time.Hour, 0, 10 * time.Minute}

// A walk goes through the ways to ask a router for a port: which external port, for how long.
type walk struct {
	lease              int // index in leases
	external, internal int
	ports              int // external ports that were refused
	endless            bool
}

// next says how to ask after the router has refused with a code. false: to ask again makes no sense.
//
// A code that names its cause changes what it names. All others, 402 and 501 before all, are what routers say
// of leases and of ports that they do not like: a shorter lease comes first, then another port.
func (w *walk) next(code int) bool {
	switch code {
	case errorAction, errorAuthorized, errorNoMaps:
		return false
	case errorPermanent:
		if w.endless {
			return false
		}
		w.endless = true
		w.lease = 2
		return true
	case errorSamePorts:
		if w.external == w.internal {
			return false
		}
		w.external = w.internal
		return true
	case errorConflict, errorOther:
		return w.otherPort()
	}
	if w.endless || w.lease == len(leases)-1 {
		if !w.otherPort() {
			return false
		}
		if !w.endless {
			w.lease = 0
		}
		return true
	}
	w.lease++
	return true
}

func (w *walk) otherPort() bool {
	if w.ports++; w.ports == portTries {
		return false
	}
	w.external = randomPort()
	return true
}
