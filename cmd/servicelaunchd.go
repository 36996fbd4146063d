package cmd

import (
	"adit/internal/fail"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strings"
)

// A launchd is that of macOS: a daemon of the system, or an agent of the user.
type launchd struct {
	u    *ui
	user bool
	name string
}

// label names the job (launchd.plist(5)).
func (m launchd) label() string {
	if m.name == "adit" {
		return "adit"
	}
	return "adit." + m.name
}

// domain is where the job runs, as launchctl has it.
func (m launchd) domain() string {
	if m.user {
		return fmt.Sprintf("gui/%d", os.Getuid())
	}
	return "system"
}

// places returns the file of the job, that of its log, and the account that it runs as: a daemon as who installs it
// with sudo, whose key and peers it has.
func (m launchd) places() (plist, log, account, home string, err error) {
	if m.user {
		home, err = os.UserHomeDir()
		if err != nil {
			return "", "", "", "", &fail.Failure{Code: fail.Other, Message: err.Error(), Hint: "set HOME"}
		}
		return filepath.Join(home, "Library", "LaunchAgents", m.label()+".plist"), filepath.Join(home, "Library", "Logs", m.label()+".log"), "", home, nil
	}
	account, home = "root", "/var/root"
	if name := os.Getenv("SUDO_USER"); name != "" {
		if who, err := user.Lookup(name); err == nil {
			account, home = name, who.HomeDir
		}
	}
	return filepath.Join("/Library/LaunchDaemons", m.label()+".plist"), filepath.Join("/Library/Logs", m.label()+".log"), account, home, nil
}

func (m launchd) text(words []string) (string, error) {
	_, log, account, home, err := m.places()
	if err != nil {
		return "", err
	}
	return plistText(m.label(), words, log, account, home), nil
}

// plistText is a job of launchd that is started with the system or the login, and again whenever it ends.
func plistText(label string, words []string, log, account, home string) string {
	var b strings.Builder
	escaped := func(s string) string {
		var e strings.Builder
		_ = xml.EscapeText(&e, []byte(s)) // a strings.Builder takes everything
		return e.String()
	}
	text := func(key, value string) {
		fmt.Fprintf(&b, "\t<key>%s</key>\n\t<string>%s</string>\n", key, escaped(value))
	}
	b.WriteString(`<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<!-- Written by adit service install. -->
<plist version="1.0">
<dict>
`)
	text("Label", label)
	b.WriteString("\t<key>ProgramArguments</key>\n\t<array>\n")
	for _, w := range words {
		fmt.Fprintf(&b, "\t\t<string>%s</string>\n", escaped(w))
	}
	b.WriteString("\t</array>\n\t<key>EnvironmentVariables</key>\n\t<dict>\n")
	fmt.Fprintf(&b, "\t\t<key>ADIT_LOG</key>\n\t\t<string>text</string>\n\t\t<key>HOME</key>\n\t\t<string>%s</string>\n\t</dict>\n", escaped(home))
	if account != "" {
		text("UserName", account)
	}
	b.WriteString("\t<key>RunAtLoad</key>\n\t<true/>\n\t<key>KeepAlive</key>\n\t<true/>\n")
	b.WriteString("\t<key>Umask</key>\n\t<integer>63</integer>\n") // 0077
	text("StandardErrorPath", log)
	text("StandardOutPath", log)
	b.WriteString("</dict>\n</plist>\n")
	return b.String()
}

func (m launchd) install(ctx context.Context, words []string) error {
	text, err := m.text(words)
	if err != nil {
		return err
	}
	path, log, account, _, err := m.places()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return cannotInstall(err, m.user)
	}
	_, statErr := os.Stat(path)
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		return cannotInstall(err, m.user)
	}
	m.u.say("wrote %s", path)
	if statErr == nil {
		_ = runTool(ctx, "launchctl", "bootout", m.domain()+"/"+m.label()) // it need not run
	}
	if err := runTool(ctx, "launchctl", "bootstrap", m.domain(), path); err != nil {
		return err
	}
	m.u.say("%s runs; \"adit service status\" shows how it does, %s what it says", m.label(), log)
	if account == "root" {
		m.u.say("it runs as root: install it with sudo from your own account to have it run as you")
	}
	return nil
}

func (m launchd) uninstall(ctx context.Context) error {
	path, _, _, _, err := m.places()
	if err != nil {
		return err
	}
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return &fail.Failure{Code: fail.Other, Message: "there is no " + path, Hint: "--name, --user and --system say which one is meant"}
	}
	if err := os.Remove(path); err != nil {
		return cannotInstall(err, m.user)
	}
	m.u.say("removed %s", path)
	return runTool(ctx, "launchctl", "bootout", m.domain()+"/"+m.label())
}

func (m launchd) status(ctx context.Context) error {
	return runTool(ctx, "launchctl", "print", m.domain()+"/"+m.label())
}
