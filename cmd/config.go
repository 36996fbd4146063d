package cmd

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/urfave/cli/v2"
)

const (
	defaultConfigName = "adit/config.toml in the user's configuration directory"

	// configBytes bounds the config file: a wrong path must not fill the memory.
	configBytes = 1 << 20

	// configMeta names the flags set by the file in the metadata of a run, and configRead the file.
	configMeta = "set by the config file"
	configRead = "the config file"
)

// defaultConfigFile returns where the config file is looked for if nobody names one, or "".
func defaultConfigFile() string {
	dir := os.Getenv("XDG_CONFIG_HOME")
	if dir == "" && runtime.GOOS == "windows" {
		dir = os.Getenv("APPDATA")
	}
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "" // a user without a home has no config file either
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "adit", "config.toml")
}

// loadConfig reads the config file of c's command line. One that nobody named need not be there. Errors are failures.
func loadConfig(u *ui, c *cli.Context) (configFile, error) {
	path, named := c.String("config"), true
	if path == "" {
		path, named = defaultConfigFile(), false
	}
	if path == "" {
		return configFile{}, nil
	}
	text, err := readConfig(path)
	if err != nil {
		switch {
		case !named && errors.Is(err, os.ErrNotExist):
			return configFile{}, nil
		case !named && dispensable(c.Command.Name, err):
			u.say("going on without the config file: %v", err)
			return configFile{}, nil
		}
		return configFile{}, usagef("let this user read it (chmod, chown), or name another with --config", "read the config file: %v", err)
	}
	file, err := parseConfig(text, configKeys(c.App))
	if err != nil {
		return configFile{}, inFile(path, err)
	}
	file.path = path
	return file, nil
}

// dispensable reports whether a command does without a config file that cannot be read for err: one in a home that is
// somebody else's, as under sudo -u. Those that follow its rules, or show them, do not: peers might do more than it says.
func dispensable(command string, err error) bool {
	return errors.Is(err, os.ErrPermission) && command != "config" && !slices.Contains(attended, command)
}

// applyConfig gives every flag of c that neither the command line nor a variable has set its value
// from the config file.
func applyConfig(u *ui, c *cli.Context) error {
	file, err := loadConfig(u, c)
	if err != nil {
		return err
	}
	c.App.Metadata[configRead] = file
	for _, f := range settings(c.Command) {
		name := f.Names()[0]
		s, given := file.settings[keyOf(c.Command.Name, name)]
		if !given || c.IsSet(name) {
			continue
		}
		inConfig, _ := c.App.Metadata[configMeta].(map[string]bool)
		if inConfig == nil {
			inConfig = make(map[string]bool)
			c.App.Metadata[configMeta] = inConfig
		}
		inConfig[name] = true
		for _, v := range s.values {
			if err := c.Set(name, joined(name, v)); err != nil {
				return inFile(file.path, &configError{line: s.line, message: fmt.Sprintf("%s: %v", keyOf(c.Command.Name, name), err)})
			}
		}
	}
	return nil
}

// fromConfig reports whether a flag got its value from the config file.
func fromConfig(c *cli.Context, flag string) bool {
	inConfig, _ := c.App.Metadata[configMeta].(map[string]bool)
	return inConfig[flag]
}

// configOf returns the config file that applyConfig read.
func configOf(c *cli.Context) configFile {
	file, _ := c.App.Metadata[configRead].(configFile)
	return file
}

func readConfig(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, configBytes+1))
	if err == nil && len(b) > configBytes {
		err = fmt.Errorf("%s is larger than %d bytes", path, configBytes)
	}
	return string(b), err
}

func inFile(path string, err error) error {
	var e *configError
	if !errors.As(err, &e) {
		return err
	}
	at := path
	if e.line > 0 {
		at = fmt.Sprintf("%s:%d", path, e.line)
	}
	return usagef(e.hint, "%s: %s", at, e.message)
}
