package runtime

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Real-time signals as C libraries number them: they keep two for themselves.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// parseSignal reads a signal as images name it: "SIGTERM", "TERM", "15",
// "SIGRTMIN+3". What it does not know is SIGTERM.
func parseSignal(name string) unix.Signal {
	if n, err := strconv.Atoi(name); err == nil && n > 0 && n <= sigRTMax {
		return unix.Signal(n)
	}
	name = "SIG" + strings.TrimPrefix(strings.ToUpper(name), "SIG")
	if sig := unix.SignalNum(name); sig != 0 {
		return sig
	}
	// CRI spells the sign out.
	name = strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(name)
	for prefix, base := range map[string]int{"SIGRTMIN": sigRTMin, "SIGRTMAX": sigRTMax} {
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			continue
		}
		off, err := strconv.Atoi("0" + strings.TrimLeft(rest, "+-"))
		if strings.HasPrefix(rest, "-") {
			off = -off
		}
		if n := base + off; err == nil && n >= sigRTMin && n <= sigRTMax {
			return unix.Signal(n)
		}
	}
	return unix.SIGTERM
}

// signalEnum is CRI's name of a signal.
func signalEnum(sig unix.Signal) runtimeapi.Signal {
	n := int(sig)
	name := unix.SignalName(sig)
	switch {
	case n == sigRTMin:
		name = "SIGRTMIN"
	case n == sigRTMax:
		name = "SIGRTMAX"
	case n > sigRTMin && n <= sigRTMin+15:
		name = "SIGRTMINPLUS" + strconv.Itoa(n-sigRTMin)
	case n > sigRTMin && n < sigRTMax:
		name = "SIGRTMAXMINUS" + strconv.Itoa(sigRTMax-n)
	}
	return runtimeapi.Signal(runtimeapi.Signal_value["SIGNAL_"+name])
}
