package fairness

import (
	"fmt"
	"strings"
	"text/tabwriter"
	"time"
)

// Dumps are the tables below /debug/api_priority_and_fairness/, by name.
var Dumps = map[string]func(f *Fairness) string{
	"dump_priority_levels": (*Fairness).dumpLevels,
	"dump_queues":          (*Fairness).dumpQueues,
	"dump_requests":        (*Fairness).dumpRequests,
}

// table writes rows with columns that line up; commas part them, as programs
// that read upstream's expect.
func table(head []string, rows func(row func(cells ...any))) string {
	var b strings.Builder
	tw := tabwriter.NewWriter(&b, 8, 0, 1, ' ', 0)
	fmt.Fprintln(tw, strings.Join(head, ",\t"))
	rows(func(cells ...any) {
		text := make([]string, len(cells))
		for i, c := range cells {
			text[i] = fmt.Sprint(c)
		}
		fmt.Fprintln(tw, strings.Join(text, ",\t"))
	})
	_ = tw.Flush() // memory takes everything
	return b.String()
}

func (f *Fairness) dumpLevels() string {
	head := []string{"PriorityLevelName", "ActiveQueues", "IsIdle", "IsQuiescing", "WaitingRequests", "ExecutingRequests",
		"SeatsInUse", "NominalSeats", "ReservedSeats", "MostSeats", "MeanSeconds"}
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return table(head, func(row func(...any)) {
		for _, l := range f.d.levels {
			active := 0
			for i := range l.queues {
				if len(l.queues[i].tickets) > 0 {
					active++
				}
			}
			row(l.name, active, l.running+l.waiting == 0, l.gone, l.waiting, l.running, l.inUse, l.nominal, l.reserve, l.most, fmt.Sprintf("%.4f", l.mean))
		}
	})
}

func (f *Fairness) dumpQueues() string {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	return table([]string{"PriorityLevelName", "Index", "PendingRequests", "ExecutingRequests", "SeatsInUse", "NextDispatchR"}, func(row func(...any)) {
		for _, l := range f.d.levels {
			for i := range l.queues {
				q := &l.queues[i]
				row(l.name, i, len(q.tickets), q.running, q.seats, fmt.Sprintf("%.4fss", q.start))
			}
		}
	})
}

func (f *Fairness) dumpRequests() string {
	f.d.mu.Lock()
	defer f.d.mu.Unlock()
	head := []string{"PriorityLevelName", "FlowSchemaName", "QueueIndex", "RequestIndexInQueue", "FlowDistinguisher", "ArriveTime", "InitialSeats", "UserName", "Verb", "Request"}
	return table(head, func(row func(...any)) {
		for _, l := range f.d.levels {
			for i := range l.queues {
				for j, t := range l.queues[i].tickets {
					row(l.name, t.schema.name, i, j, t.who, t.arrived.UTC().Format(time.RFC3339Nano), t.seats, t.user, t.verb, pathOf(t.path))
				}
			}
		}
	})
}
