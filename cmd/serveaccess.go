package cmd

import (
	"adit/internal/fail"
	"fmt"
	"net/url"
	"os"
	"runtime"
	"time"

	"adit/internal/identity"
	"adit/signal/rendezvous"
)

// accessOf returns who may begin something at a rendezvous, nil for everybody.
func accessOf(cfg serveConfig) (rendezvous.Access, error) {
	switch {
	case cfg.access != "" && cfg.hook != "":
		return nil, fail.Usagef("give one of them", "--access and --access-hook are two ways to say who may use the rendezvous")
	case cfg.hook != "":
		if u, err := url.Parse(cfg.hook); err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
			return nil, fail.Usagef("for example --access-hook http://127.0.0.1:9000/access", "--access-hook is no URL")
		}
		return &rendezvous.Hook{URL: cfg.hook, Now: time.Now}, nil
	case cfg.access == "":
		return nil, nil
	}
	l, err := readAccess(cfg.access)
	if err != nil {
		return nil, fail.Usagef("write a token or a public key, and a name, in each line", "read --access: %v", err)
	}
	return l, nil
}

// readAccess reads the list of a file, which others must not read: there are tokens in it.
func readAccess(path string) (*rendezvous.List, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if runtime.GOOS != "windows" && info.Mode().Perm()&0o007 != 0 {
		return nil, fmt.Errorf("%s can be read by every user of this machine: chmod o= it", path)
	}
	l, err := rendezvous.ParseList(f, func(s string) ([32]byte, bool) {
		k, err := identity.ParsePublicKey(s)
		return k, err == nil
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %v", path, err)
	}
	return l, nil
}
