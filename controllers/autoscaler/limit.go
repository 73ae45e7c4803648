package autoscaler

import (
	"math"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
)

// Memory is what an autoscaler must remember between decisions: what it would
// have recommended, and by how much it changed the size, each with its time.
type Memory struct {
	recommendations []point
	ups, downs      []point
}

type point struct {
	at time.Time
	n  int32
}

// longest is as far as a stabilization window or a policy's period may reach.
const longest = time.Hour

func since(list []point, now time.Time, d time.Duration) []point {
	for i, p := range list {
		if p.at.After(now.Add(-d)) {
			return list[i:]
		}
	}
	return nil
}

// forget drops what no rule looks back on any more.
func (m Memory) forget(now time.Time) Memory {
	return Memory{since(m.recommendations, now, longest), since(m.ups, now, longest), since(m.downs, now, longest)}
}

func (m Memory) recommended(now time.Time, n int32) Memory {
	m = m.forget(now)
	m.recommendations = append(append([]point(nil), m.recommendations...), point{now, n})
	return m
}

func (m Memory) scaled(now time.Time, from, to int32) Memory {
	if to > from {
		m.ups = append(append([]point(nil), m.ups...), point{now, to - from})
	} else if to < from {
		m.downs = append(append([]point(nil), m.downs...), point{now, from - to})
	}
	return m
}

// What is done where an autoscaler says nothing: up at once, by 100 % or four
// pods in 15 seconds, whichever is more; down after five minutes' stability.
var (
	maxChange   = autoscalingv2.MaxChangePolicySelect
	defaultUp   = rules(0, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15}, wholly)
	defaultDown = rules(300, wholly)
	wholly      = autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}
)

func rules(window int32, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
	return &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &window, SelectPolicy: &maxChange, Policies: policies}
}

func behaviorOf(b *autoscalingv2.HorizontalPodAutoscalerBehavior) (up, down *autoscalingv2.HPAScalingRules) {
	up, down = defaultUp, defaultDown
	if b != nil && b.ScaleUp != nil {
		up = b.ScaleUp
	}
	if b != nil && b.ScaleDown != nil {
		down = b.ScaleDown
	}
	return up, down
}

func window(r, otherwise *autoscalingv2.HPAScalingRules) time.Duration {
	if r.StabilizationWindowSeconds == nil {
		r = otherwise
	}
	return time.Duration(*r.StabilizationWindowSeconds) * time.Second
}

// stabilize holds a recommendation against the recent ones: growth only as far
// as the lowest of the one window, shrinking only as far as the highest of the
// other.
func (m Memory) stabilize(now time.Time, current, want int32, b *autoscalingv2.HorizontalPodAutoscalerBehavior) (int32, string, string) {
	upRules, downRules := behaviorOf(b)
	low, high := want, want
	for _, p := range since(m.recommendations, now, window(upRules, defaultUp)) {
		low = min(low, p.n)
	}
	for _, p := range since(m.recommendations, now, window(downRules, defaultDown)) {
		high = max(high, p.n)
	}
	n := min(max(current, low), high)
	switch {
	case n == want:
		return n, "ReadyForNewScale", "recommended size matches current size"
	case want >= current:
		return n, "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation"
	}
	return n, "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation"
}

// limit holds a size to the policies' rates and to the bounds, and says which of
// them had the last word.
func (m Memory) limit(now time.Time, current, want, least, most int32, b *autoscalingv2.HorizontalPodAutoscalerBehavior) (int32, string, string) {
	upRules, downRules := behaviorOf(b)
	switch {
	case want > current:
		rate := m.rate(now, current, upRules, 1)
		if rate < current {
			rate = current
		}
		if rate < most && want > rate {
			return max(rate, least), "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"
		}
		if want > most {
			return most, "TooManyReplicas", "the desired replica count is more than the maximum replica count"
		}
	case want < current:
		rate := min(m.rate(now, current, downRules, -1), current)
		if rate > least && want < rate {
			return min(rate, most), "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"
		}
		if want < least {
			return least, "TooFewReplicas", "the desired replica count is less than the minimum replica count"
		}
	}
	switch {
	case want > most:
		return most, "TooManyReplicas", "the desired replica count is more than the maximum replica count"
	case want < least:
		return least, "TooFewReplicas", "the desired replica count is less than the minimum replica count"
	}
	return want, "DesiredWithinRange", "the desired count is within the acceptable range"
}

// rate is the furthest size that the policies allow in a direction, of several
// by SelectPolicy. What was changed within a policy's period already counts.
func (m Memory) rate(now time.Time, current int32, r *autoscalingv2.HPAScalingRules, sign int32) int32 {
	if r.SelectPolicy != nil && *r.SelectPolicy == autoscalingv2.DisabledPolicySelect {
		return current
	}
	furthest := r.SelectPolicy == nil || *r.SelectPolicy == autoscalingv2.MaxChangePolicySelect
	var out int32
	for i, p := range r.Policies {
		n := m.allowed(now, current, p, sign)
		more := (n > out) == (sign > 0)
		if i == 0 || more == furthest {
			out = n
		}
	}
	return out
}

func (m Memory) allowed(now time.Time, current int32, p autoscalingv2.HPAScalingPolicy, sign int32) int32 {
	period := time.Duration(p.PeriodSeconds) * time.Second
	start := current
	for _, e := range since(m.ups, now, period) {
		start -= e.n
	}
	for _, e := range since(m.downs, now, period) {
		start += e.n
	}
	if p.Type == autoscalingv2.PodsScalingPolicy {
		return start + sign*p.Value
	}
	n := float64(start) * (1 + float64(sign)*float64(p.Value)/100)
	if sign > 0 {
		return up(n)
	}
	return int32(math.Max(0, math.Floor(n)))
}
