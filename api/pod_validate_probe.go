package api

import (
	"slices"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func validateProbes(k *corev1.Container, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, p := range []struct {
		name  string
		probe *corev1.Probe
	}{{"livenessProbe", k.LivenessProbe}, {"readinessProbe", k.ReadinessProbe}, {"startupProbe", k.StartupProbe}} {
		if p.probe == nil {
			continue
		}
		at := at.Child(p.name)
		errs = append(errs, validateProbe(p.probe, at)...)
		if p.probe != k.ReadinessProbe && p.probe.SuccessThreshold != 1 {
			errs = append(errs, field.Invalid(at.Child("successThreshold"), p.probe.SuccessThreshold, "must be 1"))
		}
		if g := p.probe.TerminationGracePeriodSeconds; g != nil && p.probe == k.ReadinessProbe {
			errs = append(errs, field.Invalid(at.Child("terminationGracePeriodSeconds"), *g, "must not be set for readinessProbes"))
		}
	}
	return errs
}

func validateProbe(p *corev1.Probe, at *field.Path) field.ErrorList {
	errs := slices.Concat(
		validateHandler(handler{p.Exec, p.HTTPGet, p.TCPSocket, p.GRPC, nil}, 0, at),
		nonNegative(p.InitialDelaySeconds, at.Child("initialDelaySeconds")),
		nonNegative(p.TimeoutSeconds, at.Child("timeoutSeconds")),
		nonNegative(p.PeriodSeconds, at.Child("periodSeconds")),
		nonNegative(p.SuccessThreshold, at.Child("successThreshold")),
		nonNegative(p.FailureThreshold, at.Child("failureThreshold")),
	)
	if g := p.TerminationGracePeriodSeconds; g != nil && *g <= 0 {
		errs = append(errs, field.Invalid(at.Child("terminationGracePeriodSeconds"), *g, "must be greater than 0"))
	}
	return errs
}

// handler is an action of a probe or of the life cycle: exactly one is set.
type handler struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

// validateHandler knows the pod's grace period, which a sleep must not exceed.
func validateHandler(h handler, grace int64, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	n := 0
	one := func(set bool, name string, judge func(at *field.Path) field.ErrorList) {
		if !set {
			return
		}
		if n++; n > 1 {
			errs = append(errs, field.Forbidden(at.Child(name), "may not specify more than 1 handler type"))
			return
		}
		errs = append(errs, judge(at.Child(name))...)
	}
	one(h.exec != nil, "exec", func(at *field.Path) field.ErrorList {
		if len(h.exec.Command) == 0 {
			return field.ErrorList{field.Required(at.Child("command"), "")}
		}
		return nil
	})
	one(h.http != nil, "httpGet", func(at *field.Path) field.ErrorList { return validateHTTPGet(h.http, at) })
	one(h.tcp != nil, "tcpSocket", func(at *field.Path) field.ErrorList { return validateTargetPort(h.tcp.Port, at.Child("port")) })
	one(h.grpc != nil, "grpc", func(at *field.Path) field.ErrorList { return validatePort(h.grpc.Port, at.Child("port")) })
	one(h.sleep != nil, "sleep", func(at *field.Path) field.ErrorList {
		if s := h.sleep.Seconds; s < 0 || s > grace {
			return field.ErrorList{field.Invalid(at, s, "must be non-negative and less than terminationGracePeriodSeconds ("+itoa(grace)+")")}
		}
		return nil
	})
	if n == 0 {
		errs = append(errs, field.Required(at, "must specify a handler type"))
	}
	return errs
}

func validateHTTPGet(a *corev1.HTTPGetAction, at *field.Path) field.ErrorList {
	errs := slices.Concat(
		required(a.Path, at.Child("path")),
		validateTargetPort(a.Port, at.Child("port")),
		oneOf(a.Scheme, at.Child("scheme"), corev1.URISchemeHTTP, corev1.URISchemeHTTPS),
	)
	for _, h := range a.HTTPHeaders {
		errs = append(errs, invalidEach(h.Name, at.Child("httpHeaders"), validation.IsHTTPHeaderName(h.Name))...)
	}
	return errs
}

// validateTargetPort judges a port by number or by name.
func validateTargetPort(p intstr.IntOrString, at *field.Path) field.ErrorList {
	if p.Type == intstr.Int {
		return invalidEach(p.IntVal, at, validation.IsValidPortNum(p.IntValue()))
	}
	return invalidEach(p.StrVal, at, validation.IsValidPortName(p.StrVal))
}

func validateLifecycle(l *corev1.Lifecycle, s *corev1.PodSpec, at *field.Path) field.ErrorList {
	if l == nil {
		return nil
	}
	grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if s.TerminationGracePeriodSeconds != nil {
		grace = *s.TerminationGracePeriodSeconds
	}
	var errs field.ErrorList
	for name, h := range inOrder(map[string]*corev1.LifecycleHandler{"postStart": l.PostStart, "preStop": l.PreStop}) {
		if h != nil {
			errs = append(errs, validateHandler(handler{h.Exec, h.HTTPGet, h.TCPSocket, nil, h.Sleep}, grace, at.Child(name))...)
		}
	}
	return errs
}

func itoa[N ~int32 | ~int64 | ~int](n N) string { return strconv.FormatInt(int64(n), 10) }
