// Command box is all the programs that the tests' containers run.
package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	cmd := commands[os.Args[1]]
	if cmd == nil {
		fmt.Fprintln(os.Stderr, "no such command:", os.Args[1])
		os.Exit(100)
	}
	if err := cmd(os.Args[2:]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

var commands = map[string]func(args []string) error{
	"print":  func(a []string) error { fmt.Println(strings.Join(a, " ")); return nil },
	"printn": func(a []string) error { fmt.Print(strings.Join(a, " ")); return nil },
	"stderr": func(a []string) error { fmt.Fprintln(os.Stderr, strings.Join(a, " ")); return nil },
	"exit":   func(a []string) error { os.Exit(atoi(a[0])); return nil },
	"sleep":  func([]string) error { time.Sleep(1 << 62); return nil },
	"cat":    func([]string) error { _, err := io.Copy(os.Stdout, os.Stdin); return err },
	"env":    func([]string) error { fmt.Println(strings.Join(os.Environ(), "\n")); return nil },
	"id":     id,
	"alloc":  alloc,
	"burn": func([]string) error {
		for {
		}
	},
	"trap": trap,
	"ignore": func([]string) error {
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		time.Sleep(time.Hour)
		return nil
	},
	"read": func(a []string) error {
		data, err := os.ReadFile(a[0])
		fmt.Print(string(data))
		return err
	},
	"write":  func(a []string) error { return os.WriteFile(a[0], []byte(a[1]), 0o644) },
	"count":  count,
	"tick":   tick,
	"flood":  flood,
	"long":   func(a []string) error { fmt.Println(strings.Repeat("x", atoi(a[0]))); return nil },
	"tty":    tty,
	"echo1":  echo1,
	"ps":     ps,
	"listen": listen,
	"socket": func(a []string) error { _, err := unix.Socket(atoi(a[0]), unix.SOCK_STREAM, 0); return err },
	"mount":  func(a []string) error { return unix.Mount("x", a[0], "tmpfs", 0, "") },
	"hostname": func([]string) error {
		name, err := os.Hostname()
		fmt.Println(name)
		return err
	},
	"leave": leave,
	"fork":  fork,
}

func atoi(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

func id([]string) error {
	groups, err := os.Getgroups()
	fmt.Println(os.Getuid(), os.Getgid(), groups)
	return err
}

func alloc(a []string) error {
	var keep [][]byte
	for range atoi(a[0]) {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		keep = append(keep, b)
	}
	fmt.Println("allocated", len(keep))
	return nil
}

func trap([]string) error {
	ch := make(chan os.Signal, 1)
	signal.Notify(ch, syscall.SIGTERM, syscall.SIGUSR1)
	fmt.Println("ready")
	fmt.Println("got", <-ch)
	return nil
}

// count writes n lines to stdout and stderr in turn.
func count(a []string) error {
	for i := range atoi(a[0]) {
		fmt.Println("out", i)
		fmt.Fprintln(os.Stderr, "err", i)
	}
	return nil
}

func tick([]string) error {
	for i := 0; ; i++ {
		fmt.Println("tick", i)
		time.Sleep(20 * time.Millisecond)
	}
}

func flood(a []string) error {
	w := bufio.NewWriterSize(os.Stdout, 1<<16)
	line := strings.Repeat("y", 99) + "\n"
	for range atoi(a[0]) {
		if _, err := w.WriteString(line); err != nil {
			return err
		}
	}
	return w.Flush()
}

func tty([]string) error {
	ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
	if err != nil {
		fmt.Println("no tty")
		return nil
	}
	fmt.Println("tty", ws.Col, ws.Row)
	return nil
}

// echo1 answers lines until "quit".
func echo1([]string) error {
	in := bufio.NewScanner(os.Stdin)
	fmt.Println("hello")
	for in.Scan() {
		if in.Text() == "quit" {
			return nil
		}
		fmt.Println("you said", in.Text())
	}
	return nil
}

func ps([]string) error {
	entries, err := os.ReadDir("/proc")
	for _, e := range entries {
		if _, err := strconv.Atoi(e.Name()); err == nil {
			args, _ := os.ReadFile(filepath.Join("/proc", e.Name(), "cmdline"))
			fmt.Println(e.Name(), strings.ReplaceAll(string(args), "\x00", " "))
		}
	}
	return err
}

func listen(a []string) error {
	l, err := net.Listen("tcp", "127.0.0.1:"+a[0])
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			line, _ := bufio.NewReader(c).ReadString('\n')
			fmt.Fprint(c, "pod says ", line)
		}()
	}
}

// leave ends at once and leaves a child behind that holds the output open.
func leave([]string) error {
	cmd := exec.Command("/proc/self/exe", "sleep")
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	if err := cmd.Start(); err != nil {
		return err
	}
	fmt.Println("left", cmd.Process.Pid)
	return nil
}

// fork runs n sleeping children.
func fork(a []string) error {
	for range atoi(a[0]) {
		if err := exec.Command("/proc/self/exe", "sleep").Start(); err != nil {
			return err
		}
	}
	fmt.Println("forked")
	time.Sleep(1 << 62)
	return nil
}
