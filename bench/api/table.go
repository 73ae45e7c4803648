package main

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"
)

func heading(sides []*side) string {
	cells := []string{"what"}
	for _, s := range sides {
		cells = append(cells, s.name+" /s", s.name+" /CPU s", s.name+" p50, p99")
	}
	if len(sides) == 2 {
		cells = append(cells, "ratio /s", "ratio /CPU s")
	}
	return line(cells) + "\n|" + strings.Repeat("---|", len(cells))
}

// row shows the medians of the rounds.
func row(name string, results [][]result) string {
	cells := []string{name}
	var wall, cpu []float64
	for _, rounds := range results {
		w, c := median(rounds, result.perSecond), median(rounds, result.perCPU)
		p50 := median(rounds, func(r result) time.Duration { return r.quantile(0.5) })
		p99 := median(rounds, func(r result) time.Duration { return r.quantile(0.99) })
		cells = append(cells, fmt.Sprintf("%.0f", w), fmt.Sprintf("%.0f", c), fmt.Sprintf("%s, %s", brief(p50), brief(p99)))
		wall, cpu = append(wall, w), append(cpu, c)
	}
	if len(results) == 2 {
		cells = append(cells, fmt.Sprintf("%.1f", wall[0]/wall[1]), fmt.Sprintf("%.1f", cpu[0]/cpu[1]))
	}
	return line(cells)
}

func line(cells []string) string { return "| " + strings.Join(cells, " | ") + " |" }

func brief(d time.Duration) string {
	if d < 10*time.Millisecond {
		return d.Round(100 * time.Microsecond).String()
	}
	return d.Round(time.Millisecond).String()
}

func median[T cmp.Ordered](rounds []result, of func(result) T) T {
	var all []T
	for _, r := range rounds {
		all = append(all, of(r))
	}
	slices.Sort(all)
	return all[len(all)/2]
}
