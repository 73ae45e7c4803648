//go:build cgo

package shim

/*
#define _GNU_SOURCE
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

// Before Go starts: "pause pause" is the first process of a pod's PID namespace.
// It reaps what is orphaned there and does nothing else. Signals that it has no
// handler for do not reach the first process of a namespace from within.
__attribute__((constructor)) static void pause_forever(int argc, char **argv)
{
	sigset_t children;

	if (argc != 2 || strcmp(argv[0], "pause") != 0 || strcmp(argv[1], "pause") != 0)
		return;
	prctl(PR_SET_NAME, "pause", 0, 0, 0);
	sigemptyset(&children);
	sigaddset(&children, SIGCHLD);
	sigprocmask(SIG_BLOCK, &children, NULL);
	for (;;) {
		while (waitpid(-1, NULL, WNOHANG) > 0)
			;
		sigwaitinfo(&children, NULL);
	}
}
*/
import "C"
