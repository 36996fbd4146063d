package cmd

import (
	"encoding/xml"
	"io"
	"slices"
	"strings"
	"testing"
)

// plist reads a property list (plist(5)): dictionaries, arrays, strings, integers and booleans.
func plist(t *testing.T, d *xml.Decoder, at xml.StartElement) any {
	t.Helper()
	var text strings.Builder
	var list []any
	dict, key := map[string]any{}, ""
	for {
		token, err := d.Token()
		if err != nil {
			t.Fatal(err)
		}
		switch x := token.(type) {
		case xml.CharData:
			text.Write(x)
		case xml.StartElement:
			v := plist(t, d, x)
			switch {
			case at.Name.Local == "dict" && x.Name.Local == "key":
				key = v.(string)
			case at.Name.Local == "dict":
				if _, twice := dict[key]; twice || key == "" {
					t.Errorf("the key %q", key)
				}
				dict[key], key = v, ""
			default:
				list = append(list, v)
			}
		case xml.EndElement:
			switch at.Name.Local {
			case "dict":
				return dict
			case "array", "plist":
				return list
			case "true", "false":
				return at.Name.Local == "true"
			}
			return text.String()
		}
	}
}

func TestPlist(t *testing.T) {
	for _, test := range []struct {
		name, label, account string
		words                []string
	}{
		{"agent", "adit", "", []string{"/usr/local/bin/adit", "connect", "home", "-L", "2222"}},
		{"daemon", "adit.home", "me", []string{"/opt/a & b/adit", "expose", `"22"<'x'>`, "", "--signal", "exec:ssh host 'cat | a'"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			text := plistText(test.label, test.words, "/Library/Logs/a.log", test.account, "/Users/me")
			d := xml.NewDecoder(strings.NewReader(text))
			var root []any
			for {
				token, err := d.Token()
				if err == io.EOF {
					break
				}
				if err != nil {
					t.Fatalf("%v\n%s", err, text)
				}
				if x, ok := token.(xml.StartElement); ok {
					root = plist(t, d, x).([]any)
				}
			}
			if len(root) != 1 {
				t.Fatalf("%d values at the top:\n%s", len(root), text)
			}
			job := root[0].(map[string]any)
			var words []string
			for _, w := range job["ProgramArguments"].([]any) {
				words = append(words, w.(string))
			}
			if !slices.Equal(words, test.words) {
				t.Errorf("got the words %q, want %q", words, test.words)
			}
			if job["Label"] != test.label || job["RunAtLoad"] != true || job["KeepAlive"] != true || job["Umask"] != "63" || job["StandardErrorPath"] != "/Library/Logs/a.log" {
				t.Errorf("got %v", job)
			}
			if got, _ := job["UserName"].(string); got != test.account {
				t.Errorf("it runs as %q, want %q", got, test.account)
			}
			if env := job["EnvironmentVariables"].(map[string]any); env["HOME"] != "/Users/me" || env["ADIT_LOG"] != "text" {
				t.Errorf("got the variables %v", env)
			}
		})
	}
}

func TestLaunchdPlaces(t *testing.T) {
	t.Setenv("HOME", "/Users/me")
	t.Setenv("SUDO_USER", "")
	for _, test := range []struct {
		m    launchd
		want [4]string
	}{
		{launchd{user: true, name: "adit"}, [4]string{"/Users/me/Library/LaunchAgents/adit.plist", "/Users/me/Library/Logs/adit.log", "", "/Users/me"}},
		{launchd{name: "home"}, [4]string{"/Library/LaunchDaemons/adit.home.plist", "/Library/Logs/adit.home.log", "root", "/var/root"}},
	} {
		plist, log, account, home, err := test.m.places()
		if got := [4]string{plist, log, account, home}; err != nil || got != test.want {
			t.Errorf("got %q, %v; want %q", got, err, test.want)
		}
	}
}
