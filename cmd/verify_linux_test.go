package cmd

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"adit/internal/testtier"
)

// TestVerify pastes lines on two terminals: nothing is forwarded before both persons have compared the words.
func TestVerify(t *testing.T) {
	testtier.Long(t)
	dir := t.TempDir()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	adit := filepath.Join(dir, "adit")
	if err := os.Symlink(self, adit); err != nil { // TestMain is adit by that name
		t.Fatal(err)
	}
	env := []string{"HOME=" + dir, "XDG_RUNTIME_DIR=" + dir, "TERM=dumb"}
	line := regexp.MustCompile(`adit1[A-Za-z0-9._-]{40,}`)
	for answer, want := range map[string]string{"y": "-> ", "n": "the four words differ"} {
		t.Run(answer, func(t *testing.T) {
			here := onPTY(t, env, adit, "expose", "22", "--loopback", "--stun", "none")
			here.shows(0, "press Enter")
			text, _ := here.screen.read()
			there := onPTY(t, env, adit, "connect", "-L", "0", "--loopback", "--stun", "none")
			there.shows(0, "press Enter")
			there.types(line.FindString(text) + "\n")
			there.shows(0, "Send this line back")
			at := 0
			var back string
			for back == "" {
				at = there.shows(at, "\n")
				text, _ := there.screen.read()
				if lines := line.FindAllString(text, -1); len(lines) > 1 {
					back = lines[len(lines)-1]
				}
			}
			here.types(back + "\n")
			here.shows(0, "words: ", "Are the four words the same on both screens?")
			at = there.shows(0, "words: ", "Are the four words the same on both screens?")
			if text, _ := there.screen.read(); regexp.MustCompile(`127.0.0.1:\d+ → `).MatchString(text) {
				t.Errorf("it listens before the answer: %q", text)
			}
			here.types("y\n")
			there.types(answer + "\n")
			if answer == "y" {
				want = "127.0.0.1:"
			}
			there.shows(at, want)
		})
	}
}
