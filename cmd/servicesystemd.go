package cmd

import (
	"adit/internal/fail"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

//go:embed adit.service.tmpl
var unitText string

// unitTemplate is the unit of systemd that adit service writes. docs/service.md explains each line.
var unitTemplate = template.Must(template.New("unit").Parse(unitText))

// A unit is what the template is filled with.
type unit struct {
	Name    string // adit-Name.service, or adit.service
	Command string // the command line, quoted
	User    bool   // a service of the user, not of the system
	Low     bool   // it may listen at ports below 1024
}

// File returns the name of the unit's file.
func (n unit) File() string {
	if n.Name == "adit" {
		return "adit.service"
	}
	return "adit-" + n.Name + ".service"
}

// A systemd is that of the system or of the user.
type systemd struct {
	u    *ui
	user bool
	name string
}

func (m systemd) unit() unit { return unit{Name: m.name, User: m.user} }

// dir is where units go that people put there (systemd.unit(5)).
func (m systemd) dir() (string, error) {
	if !m.user {
		return "/etc/systemd/system", nil
	}
	config, err := os.UserConfigDir()
	if err != nil {
		return "", &fail.Failure{Code: fail.Other, Message: err.Error(), Hint: "set HOME"}
	}
	return filepath.Join(config, "systemd", "user"), nil
}

// unitQuoted writes a word as ExecStart takes it (systemd.service(5), "Command lines").
func unitQuoted(s string) string {
	s = strings.NewReplacer("%", "%%", "$", "$$").Replace(s)
	if s != "" && !strings.ContainsAny(s, " \t\"'\\;") {
		return s
	}
	return `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
}

func (n unit) text() string {
	var b strings.Builder
	if err := unitTemplate.Execute(&b, n); err != nil {
		panic("cmd: unit: " + err.Error()) // the template is the binary's own
	}
	return b.String()
}

// described returns the unit of a command line, the program's path first.
func (m systemd) described(words []string) (unit, error) {
	n := m.unit()
	quoted := make([]string, len(words))
	for i, w := range words {
		if strings.ContainsAny(w, "\n\x00") {
			return n, fail.Usagef(serviceExample, "an argument of a service cannot have a line break")
		}
		quoted[i] = unitQuoted(w)
	}
	n.Command, n.Low = strings.Join(quoted, " "), words[1] == "serve"
	return n, nil
}

func (m systemd) text(words []string) (string, error) {
	n, err := m.described(words)
	return n.text(), err
}

func (m systemd) install(ctx context.Context, words []string) error {
	n, err := m.described(words)
	if err != nil {
		return err
	}
	if !m.user {
		self := words[0]
		if why := hiddenFromService(self); why != "" {
			return &fail.Failure{Code: fail.Other, Message: fmt.Sprintf("a service of the system cannot run %s: %s", self, why), Hint: "install it first: install -m 755 " + self + " /usr/local/bin/adit, and run that"}
		}
	}
	dir, err := m.dir()
	if err != nil {
		return err
	}
	path := filepath.Join(dir, n.File())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return cannotInstall(err, m.user)
	}
	if err := os.WriteFile(path, []byte(n.text()), 0o644); err != nil {
		return cannotInstall(err, m.user)
	}
	m.u.say("wrote %s", path)
	for _, args := range [][]string{{"daemon-reload"}, {"enable", n.File()}, {"restart", n.File()}} {
		if err := m.systemctl(ctx, args...); err != nil {
			return err
		}
	}
	m.u.say("%s runs; \"adit service status\" shows how it does, \"journalctl %s-u %s\" what it says", n.File(), m.flag(), n.File())
	if !m.user && words[1] != "serve" {
		m.u.say("its key and its peers are its own: XDG_STATE_HOME=/var/lib/adit/%s XDG_CONFIG_HOME=/etc adit key, or peers …", n.Name)
	}
	return nil
}

// hiddenFromService says why a service that runs as another user, with the unit's walls around it, cannot run a
// program; "" if it can.
func hiddenFromService(path string) string {
	for _, dir := range []string{"/home", "/root", "/run/user", "/tmp", "/var/tmp"} {
		if strings.HasPrefix(path, dir+"/") {
			return "it does not see " + dir
		}
	}
	for at := path; ; at = filepath.Dir(at) {
		info, err := os.Stat(at)
		if err != nil {
			return err.Error()
		}
		if info.Mode()&0o001 == 0 {
			return "others may not use " + at
		}
		if at == filepath.Dir(at) {
			return ""
		}
	}
}

func (m systemd) uninstall(ctx context.Context) error {
	dir, err := m.dir()
	if err != nil {
		return err
	}
	path := filepath.Join(dir, m.unit().File())
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return &fail.Failure{Code: fail.Other, Message: "there is no " + path, Hint: "--name, --user and --system say which one is meant"}
	}
	if err := m.systemctl(ctx, "disable", "--now", m.unit().File()); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil {
		return cannotInstall(err, m.user)
	}
	m.u.say("removed %s", path)
	return m.systemctl(ctx, "daemon-reload")
}

// status shows what systemd knows.
func (m systemd) status(ctx context.Context) error {
	return m.systemctl(ctx, "--no-pager", "status", m.unit().File())
}

// flag is what systemctl and journalctl take for a service of the user.
func (m systemd) flag() string {
	if m.user {
		return "--user "
	}
	return ""
}

func (m systemd) systemctl(ctx context.Context, args ...string) error {
	if m.user {
		args = append([]string{"--user"}, args...)
	}
	return runTool(ctx, "systemctl", args...)
}
