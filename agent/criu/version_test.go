package criu

import "testing"

func TestVersionNeeded(t *testing.T) {
	for release, ok := range map[string]map[string]bool{
		"6.12.107+deb13-amd64": {"3.17.1": false, "4.1": true, "4.1.1": true, "4.2": true},
		"6.15.9":               {"4.1.1": true},
		"6.16.0-rc1":           {"4.1.1": false, "4.2": true, "4.2.1": true},
		"7.0":                  {"4.1.1": false, "4.2.1": true},
		"strange":              {"4.1.1": false, "4.2": true},
	} {
		for version, want := range ok {
			text, have, err := parseVersion("Version: " + version + "\nGitID: v" + version + "\n")
			if err != nil || text != version {
				t.Fatalf("%s: %q, %v", version, text, err)
			}
			if got := !older(have, needed(release)); got != want {
				t.Errorf("CRIU %s on Linux %s: %v, want %v", version, release, got, want)
			}
		}
	}
}
