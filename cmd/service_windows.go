package cmd

import (
	"adit/internal/fail"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/windows"
	"golang.org/x/sys/windows/svc"
	"golang.org/x/sys/windows/svc/eventlog"
	"golang.org/x/sys/windows/svc/mgr"
)

const (
	// aditEvent is the number of all events of adit in the log: EventCreate.exe, whose messages are used, knows those from
	// 1 to 1000.
	aditEvent = 1

	// scmWait is how long a service may take to end.
	scmWait = 20 * time.Second
)

// scm is the service control manager of Windows.
type scm struct {
	u    *ui
	name string // of the service
}

func systemManager(u *ui, user bool, name string) (manager, error) {
	if user {
		return nil, fail.Usagef("leave --user out", "Windows has no services of a user")
	}
	if name != "adit" {
		name = "adit-" + name
	}
	return scm{u, name}, nil
}

// account is that of the service alone: it has no rights and a profile of its own, where its key is.
func (m scm) account() string { return `NT SERVICE\` + m.name }

func (m scm) text(words []string) (string, error) {
	quoted := make([]string, len(words))
	for i, w := range words {
		quoted[i] = windows.EscapeArg(w)
	}
	quoted = slices.Insert(quoted, 1, serviceRun...)
	return fmt.Sprintf("service  %s\nrun      %s\nas       %s\nstart    with the system, and again 3 s after it failed\n", m.name, strings.Join(quoted, " "), m.account()), nil
}

func cannotManage(what string, err error) error {
	f := &fail.Failure{Code: fail.Other, Message: fmt.Sprintf("%s: %v", what, err), Hint: "see the services of this machine: services.msc"}
	switch {
	case errors.Is(err, windows.ERROR_ACCESS_DENIED):
		f.Hint = "run it as administrator"
	case errors.Is(err, windows.ERROR_SERVICE_DOES_NOT_EXIST):
		f.Hint = "--name says which one is meant"
	}
	return f
}

func (m scm) install(ctx context.Context, words []string) error {
	manager, err := mgr.Connect()
	if err != nil {
		return cannotManage("ask the service manager", err)
	}
	defer manager.Disconnect()
	if old, err := manager.OpenService(m.name); err == nil {
		old.Close()
		if err := m.uninstall(ctx); err != nil {
			return err
		}
	}
	s, err := manager.CreateService(m.name, words[0], mgr.Config{
		StartType: mgr.StartAutomatic, DisplayName: m.name, Description: "adit: a tunnel between two machines behind NATs",
		ServiceStartName: m.account(),
	}, append(slices.Clone(serviceRun), words[1:]...)...)
	if err != nil {
		return cannotManage("create the service "+m.name, err)
	}
	defer s.Close()
	again := mgr.RecoveryAction{Type: mgr.ServiceRestart, Delay: 3 * time.Second}
	if err := s.SetRecoveryActions([]mgr.RecoveryAction{again, again, again}, 86400); err != nil {
		m.u.say("it will not be started again when it fails: %v", err)
	} else if err := s.SetRecoveryActionsOnNonCrashFailures(true); err != nil {
		m.u.say("it will be started again only when it crashes: %v", err)
	}
	if err := eventlog.InstallAsEventCreate(m.name, eventlog.Error|eventlog.Warning|eventlog.Info); err != nil && !strings.Contains(err.Error(), "exists") {
		m.u.say("what it says will look untidy in the event log: %v", err)
	}
	if err := s.Start(); err != nil {
		return cannotManage("start the service "+m.name, err)
	}
	m.u.say("the service %s runs; \"adit service status\" shows it, the event log of applications what it says", m.name)
	return nil
}

// open returns the service, and what closes it.
func (m scm) open() (*mgr.Service, func(), error) {
	manager, err := mgr.Connect()
	if err != nil {
		return nil, nil, cannotManage("ask the service manager", err)
	}
	s, err := manager.OpenService(m.name)
	if err != nil {
		manager.Disconnect()
		return nil, nil, cannotManage("open the service "+m.name, err)
	}
	return s, func() {
		s.Close()
		manager.Disconnect()
	}, nil
}

func (m scm) uninstall(ctx context.Context) error {
	s, done, err := m.open()
	if err != nil {
		return err
	}
	defer done()
	st, err := s.Control(svc.Stop)
	limit := time.Now().Add(scmWait)
	for err == nil && st.State != svc.Stopped && time.Now().Before(limit) {
		if err := pause(ctx, 200*time.Millisecond); err != nil { // the manager tells nobody
			return err
		}
		st, err = s.Query()
	}
	if err != nil && !errors.Is(err, windows.ERROR_SERVICE_NOT_ACTIVE) {
		return cannotManage("end the service "+m.name, err)
	}
	if err := s.Delete(); err != nil {
		return cannotManage("remove the service "+m.name, err)
	}
	_ = eventlog.Remove(m.name) // it may never have been there
	m.u.say("removed the service %s", m.name)
	return nil
}

func (m scm) status(context.Context) error {
	s, done, err := m.open()
	if err != nil {
		return err
	}
	defer done()
	st, err := s.Query()
	if err != nil {
		return cannotManage("ask for the service "+m.name, err)
	}
	states := map[svc.State]string{
		svc.Stopped: "stopped", svc.StartPending: "starting", svc.StopPending: "ending", svc.Running: "running",
		svc.ContinuePending: "continuing", svc.PausePending: "pausing", svc.Paused: "paused",
	}
	m.u.answer("service  %s\nstate    %s", m.name, states[st.State])
	if st.ProcessId != 0 {
		m.u.answer("process  %d", st.ProcessId)
	}
	if config, err := s.Config(); err == nil { // wine has none
		m.u.answer("run      %s\nas       %s", config.BinaryPathName, config.ServiceStartName)
	}
	return nil
}

// serviceRun stands in front of the command line that a service runs: only the service manager can start that.
var serviceRun = []string{"service", "run", "--"}

// managed runs adit, as a service where the service manager has started it: there stop, shutdown and paramchange
// are what signals are elsewhere, and what happens goes to the event log.
func managed(u *ui, args []string, run func(context.Context, []string) int) int {
	n := len(serviceRun)
	if len(args) <= n+1 || !slices.Equal(args[1:n+1], serviceRun) {
		return run(context.Background(), args)
	}
	s := &service{u: u, run: func(ctx context.Context) int { return run(ctx, slices.Delete(slices.Clone(args), 1, n+1)) }}
	if err := svc.Run("adit", s); err != nil { // the name does not matter in a process of its own
		u.fail(&fail.Failure{Code: fail.Other, Message: fmt.Sprintf("run as a service: %v", err), Hint: `only the service manager can do that: "adit service install" has it do so`})
		return fail.Other
	}
	return s.code
}

// A service is this process under the service manager.
type service struct {
	u    *ui
	run  func(context.Context) int
	code int
}

// Execute implements svc.Handler. args has the service's name.
func (s *service) Execute(args []string, requests <-chan svc.ChangeRequest, status chan<- svc.Status) (bool, uint32) {
	if len(args) > 0 {
		if log, err := eventlog.Open(args[0]); err == nil {
			defer log.Close()
			s.u.err = eventWriter{log}
			s.u.managed = true
		}
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	done := make(chan int, 1) // the one result
	go func() { done <- s.run(ctx) }()
	const accepts = svc.AcceptStop | svc.AcceptShutdown | svc.AcceptParamChange
	status <- svc.Status{State: svc.Running, Accepts: accepts}
	stopped := false
	for {
		select {
		case r := <-requests:
			switch r.Cmd {
			case svc.Interrogate:
				status <- r.CurrentStatus
			case svc.Stop, svc.Shutdown:
				stopped = true
				status <- svc.Status{State: svc.StopPending, WaitHint: uint32(scmWait.Milliseconds())}
				cancel(errInterrupted)
			case svc.ParamChange:
				s.u.reload()
				status <- svc.Status{State: svc.Running, Accepts: accepts}
			}
		case s.code = <-done:
			if stopped {
				return false, 0
			}
			return true, uint32(s.code) // the recovery actions follow
		}
	}
}

// An eventWriter puts each line that is written to it into the event log.
type eventWriter struct{ log *eventlog.Log }

func (w eventWriter) Write(b []byte) (int, error) {
	report := w.log.Info
	switch line := string(b); {
	case strings.Contains(line, "level="+slog.LevelError.String()):
		report = w.log.Error
	case strings.Contains(line, "level="+slog.LevelWarn.String()):
		report = w.log.Warning
	}
	if err := report(aditEvent, strings.TrimRight(string(b), "\n")); err != nil {
		return 0, err
	}
	return len(b), nil
}
