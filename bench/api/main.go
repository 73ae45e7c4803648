// Command api measures the API of proa beside upstream's kube-apiserver and
// etcd, in one run: the same work in turns, first one, then the other, and the
// median of several rounds; per second, and per second of the servers' CPU,
// which other work on the machine changes little.
//
//	go run ./bench/api                        both (make bench-api builds what it needs)
//	go run ./bench/api -upstream ''          proa alone
//	go run ./bench/api -kubeconfig F -pid PID a server that runs already
//	go run ./bench/api -only get -profile DIR CPU profiles of each measure, too
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"time"
)

var (
	proa       = flag.String("proa", "bin/proa", "the binary; empty leaves proa out")
	upstreams  = flag.String("upstream", "bin/upstream", "the directory of etcd and kube-apiserver; empty leaves upstream out")
	kubeconfig = flag.String("kubeconfig", "", "measure this server, which runs already, and no other")
	pids       = flag.String("pid", "", "the processes of that server, separated by commas")
	rounds     = flag.Int("rounds", 5, "how often each measure is taken; the median counts")
	clients    = flag.Int("clients", 64, "clients at once")
	size       = flag.Float64("size", 1, "how much of the work each round has; less is quicker and less exact")
	only       = flag.String("only", "", "take only the measures whose names contain this")
	profiles   = flag.String("profile", "", "a directory for a CPU profile of each measure's last round")
	settle     = flag.Duration("settle", 3*time.Minute, "how long the servers rest before memory is read the second time")
)

func main() {
	flag.Parse()
	if err := run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "bench/api:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context) (err error) {
	sides, err := startSides(ctx)
	defer func() {
		for _, s := range sides {
			err = errors.Join(err, s.stop())
		}
	}()
	if err != nil {
		return err
	}
	for _, s := range sides {
		if err := s.prepare(ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	fmt.Println(heading(sides))
	for _, m := range measures() {
		if !strings.Contains(m.name, *only) {
			continue
		}
		if err := compare(ctx, m, sides); err != nil {
			return err
		}
	}
	return memory(sides)
}

// compare takes one measure of all sides in turns and prints its row.
func compare(ctx context.Context, m measure, sides []*side) error {
	results := make([][]result, len(sides))
	for round := range *rounds {
		for i, s := range sides {
			end := func() error { return nil }
			if *profiles != "" && round == *rounds-1 {
				end = s.profile(ctx, m.name)
			}
			r, err := s.take(ctx, m, round)
			if err = errors.Join(err, end()); err != nil {
				return fmt.Errorf("%s: %s: %w", s.name, m.name, err)
			}
			results[i] = append(results[i], r)
		}
	}
	fmt.Println(row(m.name, results))
	return nil
}

// memory prints what the servers hold when the work is done, and after a rest.
func memory(sides []*side) error {
	for _, when := range []string{"at once", "after " + settle.String()} {
		if when != "at once" {
			time.Sleep(*settle)
		}
		var cells []string
		for _, s := range sides {
			rss, anon, err := s.memory()
			if err != nil {
				return err
			}
			cells = append(cells, fmt.Sprintf("%s: %.0f MB RSS, %.0f MB anonymous", s.name, rss/1e6, anon/1e6))
		}
		fmt.Printf("memory after the work, %s: %s\n", when, strings.Join(cells, "; "))
	}
	return nil
}
