package cmd

import (
	"reflect"
	"slices"
	"strings"
	"sync"

	"adit/internal/config"
	"adit/internal/event"
)

// reloads is what a running command does when it is told to read its files again, by SIGHUP.
type reloads struct {
	mu   sync.Mutex
	list []*func() error
}

// onReload has do called at each SIGHUP that is not the end of the terminal, until the returned function is called.
func (u *ui) onReload(do func() error) (remove func()) {
	u.reloads.mu.Lock()
	defer u.reloads.mu.Unlock()
	p := &do
	u.reloads.list = append(u.reloads.list, p)
	return func() {
		u.reloads.mu.Lock()
		defer u.reloads.mu.Unlock()
		u.reloads.list = slices.DeleteFunc(u.reloads.list, func(x *func() error) bool { return x == p })
	}
}

// reload reads the files again, and reports how it went, if the command has any that it can.
func (u *ui) reload() {
	u.reloads.mu.Lock()
	defer u.reloads.mu.Unlock()
	if len(u.reloads.list) == 0 {
		return
	}
	e := event.Event{Name: event.Reloaded, State: "ok"}
	for _, do := range u.reloads.list {
		if err := (*do)(); err != nil {
			f := failureOf(err)
			e.State, e.Message, e.Hint = "failed", f.Message, f.Hint
			break
		}
	}
	u.event(e)
}

// changedSettings returns the keys of a table that differ between two readings of the file.
func changedSettings(before, after config.File, table string) []string {
	var keys []string
	for _, f := range []config.File{before, after} {
		for key := range f.Settings {
			if strings.HasPrefix(key, table+".") && !slices.Contains(keys, key) && !reflect.DeepEqual(before.Settings[key].Value, after.Settings[key].Value) {
				keys = append(keys, key)
			}
		}
	}
	slices.Sort(keys)
	return keys
}
