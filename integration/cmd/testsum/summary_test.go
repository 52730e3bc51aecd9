package main

import (
	"strings"
	"testing"
)

func TestSummary(t *testing.T) {
	const pass = `{"Action":"pass","Package":"ss/a","Test":"TestOne"}` + "\n" + `{"Action":"pass","Package":"ss/a"}` + "\n"
	for name, c := range map[string]struct {
		in   string
		want string
		good bool
	}{
		"good":        {pass, "1 passed, 0 failed, 0 skipped\n", true},
		"nothing ran": {`{"Action":"skip","Package":"ss/a"}`, "0 passed, 0 failed, 0 skipped\n", false},
		"failed": {pass + `{"Action":"output","Package":"ss/b","Test":"TestTwo","Output":"because\n"}
{"Action":"fail","Package":"ss/b","Test":"TestTwo"}
{"Action":"fail","Package":"ss/b"}`, "1 passed, 1 failed, 0 skipped\n", false},
		"did not build": {pass + `{"Action":"fail","Package":"ss/b","FailedBuild":"ss/b"}`, "1 passed, 1 failed, 0 skipped\n", false},
		"timed out": {pass + `{"Action":"run","Package":"ss/b","Test":"TestTwo"}
{"Action":"fail","Package":"ss/b"}`, "1 passed, 1 failed, 0 skipped\n", false},
		"skipped":            {pass + `{"Action":"skip","Package":"ss/b","Test":"TestTwo"}`, "1 passed, 0 failed, 1 skipped\n", true},
		"skipped, strictly":  {pass + `{"Action":"skip","Package":"ss/strict/c","Test":"TestTwo"}`, "1 passed, 0 failed, 1 skipped\n", false},
		"not JSON, and good": {"warning: something\n" + pass, "1 passed, 0 failed, 0 skipped\n", true},
	} {
		var out strings.Builder
		s := newSummary(&out, "ss/strict")
		if _, err := s.read(strings.NewReader(c.in)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if good := s.close(); good != c.good || !strings.HasSuffix(out.String(), c.want) {
			t.Errorf("%s: good %v, want %v; output\n%s", name, good, c.good, out.String())
		}
		if strings.Contains(c.in, "because") && !strings.Contains(out.String(), "because") {
			t.Errorf("%s: what the failed test printed is not shown:\n%s", name, out.String())
		}
	}
}
