package doctor

import (
	"net"
	"strings"
	"testing"
)

func TestEveryProblemNamesItsFix(t *testing.T) {
	for _, r := range Run(Config{DataDir: t.TempDir(), Address: "127.0.0.1", APIPort: 0, Node: true, Running: true}) {
		if r.Check == "" || r.Found == "" {
			t.Errorf("incomplete: %+v", r)
		}
		if (r.State == OK) != (r.Fix == "") {
			t.Errorf("%s is %s but its fix is %q", r.Check, r.State, r.Fix)
		}
	}
}

func TestTakenPortNamesItsHolder(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	r := apiPort(Config{Address: "127.0.0.1", APIPort: l.Addr().(*net.TCPAddr).Port})
	if r.State != Fail || !strings.Contains(r.Found, "in use by doctor.test (pid ") || !strings.Contains(r.Fix, "--api-port") {
		t.Errorf("got %+v", r)
	}
}

func TestMissingDirectoryIsJudgedByItsParent(t *testing.T) {
	if r := disk(Config{DataDir: t.TempDir() + "/not/there/yet"}); r.State == Fail {
		t.Errorf("got %+v", r)
	}
}
